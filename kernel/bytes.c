#include "bytes.h"

#include <stdlib.h>

/* With KERNEL_TIGHT, for sanitizers, no byte more is asked for than is used, so that each byte too
 * far is found; beyond a size at which that would take for ever, an eighth. */
#if defined(KERNEL_TIGHT)
#define FIRST_CAPACITY 1
#define LARGE ((size_t)1 << 14)
#define GROWN(capacity) ((capacity) < LARGE ? (capacity) : (capacity) + (capacity) / 8)
#else
#define FIRST_CAPACITY 1024 /* of the texts of a column: those of a hundred rows */
#define GROWN(capacity) ((capacity) * 2)
#endif

bool checked_product(size_t a, size_t b, size_t *product) {
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *product = a * b;
    return true;
}

bool bytes_grow(struct bytes *bytes, size_t more) {
    if (more > SIZE_MAX / 2 - bytes->length)
        return false;
    size_t needed = bytes->length + more;
    size_t capacity = bytes->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : GROWN(bytes->capacity);
    if (capacity < needed)
        capacity = needed;
    uint8_t *grown = realloc(bytes->start, capacity);
    if (!grown)
        return false;
    bytes->start = grown;
    bytes->capacity = capacity;
    return true;
}

void bytes_free(struct bytes *bytes) {
    free(bytes->start);
    *bytes = (struct bytes){0};
}
