/* Columns that are filled row by row, and handed over as Arrow arrays. */
#ifndef COLUMN_H
#define COLUMN_H

#include "bytes.h"
#include "int128.h"
#include "kernel.h"

/* A column of any kind. A slot that is passed over is null.
 *
 * Validity bits are zero until they are set; other slots are written when their row is reached, so
 * that no byte of a finished column is left to chance.
 */
struct column {
    enum kernel_kind kind;
    size_t filled; /* slots that are written */
    size_t valid;  /* of these, how many are not null */
    struct bytes validity;
    struct bytes values; /* numbers, bits, or where texts and lists end */
    struct bytes texts;
    struct column *inner; /* the texts of lists and objects */
};

/* Make an empty column. Returns false without memory; it can be freed all the same. */
bool column_open(struct column *column, enum kernel_kind kind);
void column_free(struct column *column);

/* Make room for so many slots in all. */
bool column_reserve(struct column *column, size_t slots);

/* Make the slots before `row` null, except those that are filled. */
void column_fill(struct column *column, size_t row);

/* Hand a column of `rows` rows over: afterwards it is empty, and the array owns its memory. Returns
 * false without memory; then nothing is handed over. */
bool column_export(struct column *column, size_t rows, struct ArrowArray *array);

/* Make a struct array of `count` columns, all of them handed over. */
bool columns_export(struct column *columns, size_t count, size_t rows, struct ArrowArray *array);

static inline void column_reach(struct column *column, size_t row) {
    if (column->filled < row)
        column_fill(column, row);
}

/* Say that the slot of `row`, the next one, holds a value. */
static inline void column_keep(struct column *column, size_t row) {
    column->validity.start[row >> 3] |= (uint8_t)(1u << (row & 7));
    column->valid++;
    column->filled = row + 1;
}

static inline void column_keep_integer(struct column *column, size_t row, int64_t value) {
    memcpy(column->values.start + row * sizeof value, &value, sizeof value);
    column_keep(column, row);
}

static inline void column_keep_decimal(struct column *column, size_t row, u128 value) {
    memcpy(column->values.start + row * sizeof value, &value, sizeof value);
    column_keep(column, row);
}

static inline void column_keep_boolean(struct column *column, size_t row, bool value) {
    column->values.start[row >> 3] |= (uint8_t)((unsigned)value << (row & 7));
    column_keep(column, row);
}

/* End the text of `row`, or its list, at `end`. */
static inline void column_keep_end(struct column *column, size_t row, size_t end) {
    int32_t offset = (int32_t)end; /* KERNEL_MAX_BYTES is less than 31 bits */
    memcpy(column->values.start + (row + 1) * sizeof offset, &offset, sizeof offset);
    column_keep(column, row);
}

#endif
