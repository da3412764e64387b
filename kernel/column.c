#include "column.h"

#include <stdlib.h>

_Static_assert(KERNEL_MAX_BYTES <= INT32_MAX, "texts end at offsets of 31 bits");

static bool has_bits(enum kernel_kind kind) { return kind == KERNEL_BOOLEAN; }

static bool has_ends(enum kernel_kind kind) {
    return kind == KERNEL_TEXT || kind == KERNEL_JSON || kind == KERNEL_TEXT_LIST;
}

/* Return how many bytes a slot has in `values`; bits are counted elsewhere. */
static size_t width_of(enum kernel_kind kind) {
    switch (kind) {
    case KERNEL_INTEGER:
    case KERNEL_DATE:
        return sizeof(int64_t);
    case KERNEL_DECIMAL:
        return sizeof(u128);
    case KERNEL_TEXT:
    case KERNEL_JSON:
    case KERNEL_TEXT_LIST:
        return sizeof(int32_t);
    default:
        return 0;
    }
}

bool column_open(struct column *column, enum kernel_kind kind) {
    *column = (struct column){.kind = kind};
    if (has_ends(kind) && !bytes_add_zeros(&column->values, sizeof(int32_t)))
        return false;
    if (kind != KERNEL_TEXT_LIST && kind != KERNEL_OBJECT_TYPE)
        return true;
    column->inner = malloc(sizeof *column->inner);
    return column->inner && column_open(column->inner, KERNEL_TEXT);
}

void column_free(struct column *column) {
    bytes_free(&column->validity);
    bytes_free(&column->values);
    bytes_free(&column->texts);
    if (column->inner)
        column_free(column->inner);
    free(column->inner);
    column->inner = NULL;
}

/* Make `bits` zeroed bits of it, those that are there included. */
static bool reserve_bits(struct bytes *bytes, size_t bits) {
    size_t needed = bits / 8 + 1;
    return bytes->length >= needed || bytes_add_zeros(bytes, needed - bytes->length);
}

bool column_reserve(struct column *column, size_t slots) {
    size_t needed;
    if (slots > SIZE_MAX - 1 || !checked_product(slots + 1, width_of(column->kind), &needed))
        return false;
    struct bytes *values = &column->values;
    if (!reserve_bits(&column->validity, slots))
        return false;
    if (has_bits(column->kind) && !reserve_bits(values, slots))
        return false;
    if (values->length < needed && !bytes_ensure(values, needed - values->length))
        return false;
    return column->kind != KERNEL_OBJECT_TYPE || column_reserve(column->inner, slots);
}

void column_fill(struct column *column, size_t row) {
    size_t width = width_of(column->kind);
    uint8_t *values = column->values.start;
    if (column->filled >= row)
        return;
    if (has_ends(column->kind)) {
        for (size_t slot = column->filled; slot < row; slot++)
            memcpy(values + (slot + 1) * width, values + slot * width, width);
    } else if (width) {
        memset(values + column->filled * width, 0, (row - column->filled) * width);
    }
    if (column->kind == KERNEL_OBJECT_TYPE)
        column_fill(column->inner, row);
    column->filled = row;
}

/* ---- handing over ---- */

enum { MOST_BUFFERS = 3 };

/* What an array owns. */
struct owned {
    const void *buffers[MOST_BUFFERS];
    struct ArrowArray **children;
};

static void release_array(struct ArrowArray *array) {
    struct owned *owned = array->private_data;
    for (int64_t place = 0; place < array->n_buffers; place++)
        free((void *)owned->buffers[place]);
    for (int64_t place = 0; place < array->n_children; place++) {
        kernel_release(owned->children[place]); /* a child that was moved out has no release */
        free(owned->children[place]);
    }
    free(owned->children);
    free(owned);
    array->release = NULL;
}

void kernel_release(struct ArrowArray *array) {
    if (array->release)
        array->release(array);
}

/* Make an array without buffers, with room for children that are released already. */
static bool open_array(struct ArrowArray *array, size_t rows, size_t children) {
    struct owned *owned = calloc(1, sizeof *owned);
    *array = (struct ArrowArray){0};
    if (!owned)
        return false;
    array->length = (int64_t)rows;
    array->buffers = owned->buffers;
    array->private_data = owned;
    array->release = release_array;
    if (!children)
        return true;
    owned->children = calloc(children, sizeof *owned->children);
    array->children = owned->children;
    for (size_t place = 0; owned->children && place < children; place++) {
        owned->children[place] = calloc(1, sizeof *owned->children[place]);
        if (!owned->children[place])
            break;
        array->n_children++;
    }
    if (array->n_children == (int64_t)children)
        return true;
    release_array(array);
    return false;
}

static const void *hand_over(struct bytes *bytes) {
    const void *start = bytes->start;
    *bytes = (struct bytes){0};
    return start;
}

static void hand_over_buffers(struct column *column, size_t rows, struct ArrowArray *array) {
    struct owned *owned = array->private_data;
    array->null_count = (int64_t)(rows - column->valid);
    owned->buffers[array->n_buffers++] = array->null_count ? hand_over(&column->validity) : NULL;
    if (column->kind != KERNEL_OBJECT_TYPE)
        owned->buffers[array->n_buffers++] = hand_over(&column->values);
    if (column->kind == KERNEL_TEXT || column->kind == KERNEL_JSON)
        owned->buffers[array->n_buffers++] = hand_over(&column->texts);
    column->valid = column->filled = 0;
}

/* Some readers do not take a missing buffer for an empty one. */
static bool has_texts(struct column *column) {
    return (column->kind != KERNEL_TEXT && column->kind != KERNEL_JSON) || column->texts.start ||
           bytes_ensure(&column->texts, 1);
}

bool column_export(struct column *column, size_t rows, struct ArrowArray *array) {
    column_fill(column, rows);
    if (!has_texts(column) || !open_array(array, rows, column->inner ? 1 : 0))
        return false;
    if (column->inner) {
        size_t inner = column->kind == KERNEL_OBJECT_TYPE ? rows : column->inner->filled;
        if (!column_export(column->inner, inner, array->children[0])) {
            release_array(array);
            return false;
        }
    }
    hand_over_buffers(column, rows, array);
    return true;
}

bool columns_export(struct column *columns, size_t count, size_t rows, struct ArrowArray *array) {
    if (!open_array(array, rows, count))
        return false;
    array->n_buffers = 1; /* no struct is null: no validity */
    for (size_t place = 0; place < count; place++) {
        if (!column_export(&columns[place], rows, array->children[place])) {
            release_array(array);
            return false;
        }
    }
    return true;
}
