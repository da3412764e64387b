/* Memory that grows: the only place that asks for memory while a text is decoded. */
#ifndef BYTES_H
#define BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes that are filled from the start. Zeroed, it is empty and owns nothing. */
struct bytes {
    uint8_t *start;
    size_t length;
    size_t capacity;
};

/* Make room for `more` bytes behind the length. On failure nothing has changed. */
bool bytes_grow(struct bytes *bytes, size_t more);

/* Free the memory; afterwards it is empty. */
void bytes_free(struct bytes *bytes);

/* Set `*product` to a * b, or return false where that does not fit. */
bool checked_product(size_t a, size_t b, size_t *product);

static inline bool bytes_ensure(struct bytes *bytes, size_t more) {
    return bytes->capacity - bytes->length >= more || bytes_grow(bytes, more);
}

static inline bool bytes_add(struct bytes *bytes, const void *from, size_t length) {
    if (!bytes_ensure(bytes, length))
        return false;
    if (length)
        memcpy(bytes->start + bytes->length, from, length);
    bytes->length += length;
    return true;
}

static inline bool bytes_add_one(struct bytes *bytes, uint8_t byte) {
    if (!bytes_ensure(bytes, 1))
        return false;
    bytes->start[bytes->length++] = byte;
    return true;
}

static inline bool bytes_add_zeros(struct bytes *bytes, size_t length) {
    if (!bytes_ensure(bytes, length))
        return false;
    if (length)
        memset(bytes->start + bytes->length, 0, length);
    bytes->length += length;
    return true;
}

#endif
