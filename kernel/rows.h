/* Line items to columns: each value into its column, and what that cannot hold into one more. */
#ifndef ROWS_H
#define ROWS_H

#include "column.h"
#include "convert.h"
#include "json.h"
#include "schema.h"

/* How many containers are open around an item of a page: its object, and the list of items. */
#define ITEM_DEPTH 2
#define NO_KEY UINT16_MAX

/* A value that was rescued of the row at hand: `"key":value`, in `left`. */
struct entry {
    uint32_t key;
    size_t start;
    size_t length;
};

/* A key that differs from a field in its case only: the field gets the value if it is free. */
struct variant {
    size_t field;
    const uint8_t *value;
};

/* All that one call works on. Keys are numbered: first the fields, then strangers as they come. */
struct decoder {
    const struct kernel_schema *schema;
    const uint8_t *text;
    struct cursor in;
    enum kernel_status status;

    struct column *columns; /* those of the fields, then the rescued text */
    size_t column_count;
    size_t row;
    size_t capacity;
    const uint8_t *first_row;

    struct kernel_page *page;
    size_t key_count;
    uint16_t *following; /* the key that last came behind each key; [0] begins a row */
    size_t *seen;        /* the number of the row that last had each key, counted from 1 */
    uint16_t stranger_slots[512]; /* a power of two, more than twice KERNEL_MAX_STRANGERS */
    size_t stranger_fields[KERNEL_MAX_STRANGERS]; /* the field that differs in case only */

    struct bytes scratch;
    struct bytes left;
    struct entry *entries;
    size_t entry_count;
    struct variant variants[KERNEL_MAX_STRANGERS];
    size_t variant_count;
};

/* Make a decoder for a text of at most KERNEL_MAX_BYTES. It is to be closed, whether this succeeds
 * or not. */
bool decoder_open(struct decoder *decoder, const struct kernel_schema *schema, const uint8_t *text,
                  size_t length, struct kernel_page *page);
void decoder_close(struct decoder *decoder);

/* Refuse the text, and return false. */
bool refuse(struct decoder *decoder, enum kernel_status status);

/* Read the item at the cursor as the next row. */
bool read_item(struct decoder *decoder);

/* Hand the columns over to the page. */
bool hand_over_rows(struct decoder *decoder);

#endif
