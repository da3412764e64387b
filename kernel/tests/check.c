#include "check.h"

#include <stdbool.h>
#include <string.h>

static bool is_valid(const struct ArrowArray *array, int64_t slot) {
    const uint8_t *bits = array->buffers[0];
    return !bits || (bits[slot >> 3] >> (slot & 7) & 1);
}

static void check_nulls(const struct ArrowArray *array) {
    int64_t nulls = 0;
    for (int64_t slot = 0; slot < array->length; slot++)
        nulls += !is_valid(array, slot);
    CHECK(nulls == array->null_count);
}

/* A second reader of UTF-8: it decodes, and asks that the shortest spelling was used. */
static void check_utf8(const uint8_t *text, size_t length) {
    static const uint32_t LEAST[5] = {0, 0, 0x80, 0x800, 0x10000};
    for (size_t at = 0; at < length;) {
        uint8_t lead = text[at];
        size_t size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        if (size == 1) {
            at++;
            continue;
        }
        CHECK(lead >= 0xC0 && lead < 0xF8 && length - at >= size);
        uint32_t character = lead & (0xFFu >> (size + 1));
        for (size_t place = 1; place < size; place++) {
            CHECK((text[at + place] & 0xC0) == 0x80);
            character = character << 6 | (text[at + place] & 0x3Fu);
        }
        CHECK(character >= LEAST[size] && character <= 0x10FFFF);
        CHECK(character < 0xD800 || character > 0xDFFF);
        at += size;
    }
}

static int32_t end_of(const struct ArrowArray *array, int64_t slot) {
    int32_t end;
    memcpy(&end, (const uint8_t *)array->buffers[1] + (size_t)slot * sizeof end, sizeof end);
    return end;
}

static void check_ends(const struct ArrowArray *array) {
    CHECK(end_of(array, 0) == 0);
    for (int64_t slot = 0; slot < array->length; slot++) {
        CHECK(end_of(array, slot) <= end_of(array, slot + 1));
        if (!is_valid(array, slot))
            CHECK(end_of(array, slot) == end_of(array, slot + 1));
    }
}

static void check_texts(const struct ArrowArray *array) {
    CHECK(array->n_buffers == 3 && array->n_children == 0 && array->buffers[2]);
    check_ends(array);
    for (int64_t slot = 0; slot < array->length; slot++) {
        const uint8_t *texts = array->buffers[2];
        int32_t start = end_of(array, slot);
        check_utf8(texts + start, (size_t)(end_of(array, slot + 1) - start));
    }
}

/* Check that null slots are zeros, and read the others. */
static void check_values(const struct ArrowArray *array, size_t width) {
    const uint8_t *values = array->buffers[1];
    CHECK(array->n_buffers == 2 && array->n_children == 0);
    for (int64_t slot = 0; slot < array->length; slot++) {
        unsigned sum = 0;
        for (size_t place = 0; place < width; place++)
            sum |= values[(size_t)slot * width + place];
        CHECK(sum == 0 || is_valid(array, slot));
    }
}

static void check_bits(const struct ArrowArray *array) {
    const uint8_t *bits = array->buffers[1];
    CHECK(array->n_buffers == 2 && array->n_children == 0);
    for (int64_t slot = 0; slot < array->length; slot++)
        CHECK(is_valid(array, slot) || !(bits[slot >> 3] >> (slot & 7) & 1));
}

void check_column(const struct ArrowArray *array, enum kernel_kind kind) {
    CHECK(array->release && array->offset == 0 && !array->dictionary);
    check_nulls(array);
    switch (kind) {
    case KERNEL_TEXT:
    case KERNEL_JSON:
        check_texts(array);
        break;
    case KERNEL_INTEGER:
    case KERNEL_DATE:
        check_values(array, 8);
        break;
    case KERNEL_DECIMAL:
        check_values(array, 16);
        break;
    case KERNEL_BOOLEAN:
        check_bits(array);
        break;
    case KERNEL_TEXT_LIST:
        CHECK(array->n_buffers == 2 && array->n_children == 1);
        check_ends(array);
        CHECK(end_of(array, array->length) == array->children[0]->length);
        check_column(array->children[0], KERNEL_TEXT);
        break;
    case KERNEL_OBJECT_TYPE:
        CHECK(array->n_buffers == 1 && array->n_children == 1);
        CHECK(array->children[0]->length == array->length);
        check_column(array->children[0], KERNEL_TEXT);
        break;
    default:
        CHECK(false);
    }
}

void check_rows(const struct kernel_page *page, const int32_t *kinds, int32_t count) {
    const struct ArrowArray *array = &page->array;
    CHECK(array->release && array->n_children == count + 1 && array->n_buffers == 1);
    CHECK(array->length == (int64_t)page->rows && array->null_count == 0 && !array->buffers[0]);
    for (int32_t place = 0; place <= count; place++) {
        CHECK(array->children[place]->length == array->length);
        check_column(array->children[place],
                     place < count ? (enum kernel_kind)kinds[place] : KERNEL_JSON);
    }
}
