/* What holds of every array that the kernel hands over, whatever it was made of. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "../kernel.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Check an array of a kind, and everything in it: each byte is read. */
void check_column(const struct ArrowArray *array, enum kernel_kind kind);

/* Check the rows of a page: a column of each kind, then a text. */
void check_rows(const struct kernel_page *page, const int32_t *kinds, int32_t count);

#endif
