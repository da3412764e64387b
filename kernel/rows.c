#include "rows.h"

#include <stdlib.h>

#define STRANGER_SLOTS (sizeof((struct decoder *)0)->stranger_slots / sizeof(uint16_t))
_Static_assert((STRANGER_SLOTS & (STRANGER_SLOTS - 1)) == 0, "a power of two, for the mask");
_Static_assert(STRANGER_SLOTS > 2 * KERNEL_MAX_STRANGERS, "a search ends at a free slot, soon");
_Static_assert(KERNEL_MAX_FIELDS + KERNEL_MAX_STRANGERS < NO_KEY, "keys are numbers of 16 bits");

/* How many rows there is room for at first, which are enough to tell how long a row is, and by what
 * this may grow at once: from 128 to more than a page of 2,000. */
#if defined(KERNEL_TIGHT)
#define FIRST_ROWS 1
#define MOST_GROWTH 2
#else
#define FIRST_ROWS 128
#define MOST_GROWTH 32
#endif

bool refuse(struct decoder *decoder, enum kernel_status status) {
    decoder->status = status;
    return false;
}

/* Whether items are kept as they are, each as one JSON text. */
static bool keeps_items(const struct decoder *decoder) { return decoder->schema->count == 0; }

/* ---- opening and closing ---- */

bool decoder_open(struct decoder *decoder, const struct kernel_schema *schema, const uint8_t *text,
                  size_t length, struct kernel_page *page) {
    *decoder = (struct decoder){.schema = schema, .text = text, .page = page};
    decoder->in = (struct cursor){text, text + length};
    size_t keys = schema->count + KERNEL_MAX_STRANGERS;
    decoder->key_count = schema->count;
    decoder->columns = calloc(schema->count + 1, sizeof *decoder->columns);
    decoder->following = malloc((keys + 1) * sizeof *decoder->following);
    decoder->seen = calloc(keys, sizeof *decoder->seen);
    decoder->entries = malloc(keys * sizeof *decoder->entries);
    if (!decoder->columns || !decoder->following || !decoder->seen || !decoder->entries)
        return refuse(decoder, KERNEL_NO_MEMORY);
    memset(decoder->following, 0xFF, (keys + 1) * sizeof *decoder->following);
    for (size_t place = 0; place <= schema->count; place++) {
        enum kernel_kind kind = place < schema->count ? schema->fields[place].kind : KERNEL_JSON;
        decoder->column_count++;
        if (!column_open(&decoder->columns[place], kind))
            return refuse(decoder, KERNEL_NO_MEMORY);
    }
    return true;
}

void decoder_close(struct decoder *decoder) {
    for (size_t place = 0; place < decoder->column_count; place++)
        column_free(&decoder->columns[place]);
    free(decoder->columns);
    free(decoder->following);
    free(decoder->seen);
    free(decoder->entries);
    bytes_free(&decoder->scratch);
    bytes_free(&decoder->left);
}

bool hand_over_rows(struct decoder *decoder) {
    decoder->page->rows = decoder->row;
    return columns_export(decoder->columns, decoder->column_count, decoder->row,
                          &decoder->page->array) ||
           refuse(decoder, KERNEL_NO_MEMORY);
}

/* Guess from the rows so far how many there are, within bounds that no text can stretch. Of lines,
 * only the one at hand is seen: then it is twice as many as now. */
static size_t rows_expected(const struct decoder *decoder) {
    size_t least = 2 * decoder->capacity, most = MOST_GROWTH * decoder->capacity;
    if (!decoder->capacity)
        return FIRST_ROWS;
    size_t read = (size_t)(decoder->in.at - decoder->first_row);
    size_t left = (size_t)(decoder->in.end - decoder->in.at);
    size_t guess = decoder->row + left / (read / decoder->row + 1) + 1;
    guess += guess / 16; /* rows that follow may be a little shorter */
    guess = guess < least ? least : guess > most ? most : guess;
    return guess < KERNEL_MAX_ROWS ? guess : KERNEL_MAX_ROWS;
}

static bool make_room_for_row(struct decoder *decoder) {
    if (decoder->row < decoder->capacity)
        return true;
    if (decoder->row >= KERNEL_MAX_ROWS)
        return refuse(decoder, KERNEL_TOO_LARGE);
    if (!decoder->capacity)
        decoder->first_row = decoder->in.at;
    size_t capacity = rows_expected(decoder);
    for (size_t place = 0; place < decoder->column_count; place++)
        if (!column_reserve(&decoder->columns[place], capacity))
            return refuse(decoder, KERNEL_NO_MEMORY);
    decoder->capacity = capacity;
    return true;
}

/* ---- what a column holds of a value ---- */

/* HELD: the column says everything. INEXACT: it says most. UNFIT: it says nothing; the cursor may
 * be anywhere in the value. REFUSED: the decoder has the reason. */
enum fit { HELD, INEXACT, UNFIT, REFUSED };

static enum fit refuse_value(struct decoder *decoder, enum kernel_status status) {
    refuse(decoder, status);
    return REFUSED;
}

/* Read a string at the cursor; one that is not Unicode fits nowhere. */
static enum fit read_span(struct decoder *decoder, struct span *text) {
    bool is_lone;
    if (!take(&decoder->in, '"'))
        return UNFIT;
    enum kernel_status status = read_string(&decoder->in, &decoder->scratch, text, &is_lone);
    if (status != KERNEL_OK)
        return refuse_value(decoder, status);
    return is_lone ? UNFIT : HELD;
}

/* Append a string at the cursor to the texts of a column, as slot `slot`. */
static enum fit append_text(struct decoder *decoder, struct column *column, size_t slot) {
    size_t before = column->texts.length;
    bool is_lone = false;
    if (!take(&decoder->in, '"'))
        return UNFIT;
    enum kernel_status status = copy_string(&decoder->in, &column->texts, AS_TEXT, &is_lone);
    if (status != KERNEL_OK)
        return refuse_value(decoder, status);
    if (is_lone) {
        column->texts.length = before;
        return UNFIT;
    }
    column_reach(column, slot);
    column_keep_end(column, slot, column->texts.length);
    return HELD;
}

static enum fit append_json(struct decoder *decoder, struct column *column, unsigned depth) {
    uint8_t byte = next_byte(&decoder->in);
    if (byte != '{' && byte != '[')
        return UNFIT;
    enum kernel_status status = read_value(&decoder->in, &column->texts, depth);
    if (status != KERNEL_OK)
        return refuse_value(decoder, status);
    column_reach(column, decoder->row);
    column_keep_end(column, decoder->row, column->texts.length);
    return HELD;
}

/* Read a number, or a text that is one. */
static enum fit read_amount(struct decoder *decoder, struct number *number) {
    uint8_t byte = next_byte(&decoder->in);
    if (byte == '"') {
        struct span text;
        enum fit fit = read_span(decoder, &text);
        return fit == HELD && !number_of_text(text, number) ? UNFIT : fit;
    }
    if (byte != '-' && !is_digit(byte))
        return UNFIT;
    if (!read_number(&decoder->in, number))
        return refuse_value(decoder, KERNEL_NOT_JSON);
    if (number->has_long_exponent)
        return refuse_value(decoder, KERNEL_LONG_EXPONENT);
    return HELD;
}

static enum fit keep_decimal(struct decoder *decoder, struct column *column) {
    struct number number;
    u128 value;
    enum fit fit = read_amount(decoder, &number);
    if (fit != HELD)
        return fit;
    if (!decimal_of(&number, &value))
        return UNFIT;
    column_reach(column, decoder->row);
    column_keep_decimal(column, decoder->row, value);
    return HELD;
}

static enum fit keep_integer(struct decoder *decoder, struct column *column) {
    struct number number;
    int64_t value;
    enum fit fit = read_amount(decoder, &number);
    if (fit != HELD)
        return fit;
    if (!integer_of(&number, &value))
        return UNFIT;
    column_reach(column, decoder->row);
    column_keep_integer(column, decoder->row, value);
    return HELD;
}

static enum fit keep_date(struct decoder *decoder, struct column *column) {
    struct span text;
    int64_t microseconds;
    bool is_exact;
    enum fit fit = read_span(decoder, &text);
    if (fit != HELD)
        return fit;
    if (!date_of(text, &microseconds, &is_exact))
        return UNFIT;
    column_reach(column, decoder->row);
    column_keep_integer(column, decoder->row, microseconds);
    return is_exact ? HELD : INEXACT;
}

static enum fit keep_boolean(struct decoder *decoder, struct column *column) {
    bool value = take_word(&decoder->in, "true", 4);
    if (!value && !take_word(&decoder->in, "false", 5))
        return UNFIT;
    column_reach(column, decoder->row);
    column_keep_boolean(column, decoder->row, value);
    return HELD;
}

/* Append one text or null of a list. */
static enum fit append_inner(struct decoder *decoder, struct column *inner) {
    size_t slot = inner->filled;
    if (!column_reserve(inner, slot + 1))
        return refuse_value(decoder, KERNEL_NO_MEMORY);
    if (!take_word(&decoder->in, "null", 4))
        return append_text(decoder, inner, slot);
    column_fill(inner, slot + 1);
    return HELD;
}

static enum fit append_list(struct decoder *decoder, struct column *inner) {
    struct cursor *in = &decoder->in;
    if (!take(in, '['))
        return UNFIT;
    skip_space(in);
    if (take(in, ']'))
        return HELD;
    for (;;) {
        enum fit fit = append_inner(decoder, inner);
        if (fit != HELD)
            return fit;
        skip_space(in);
        if (take(in, ']'))
            return HELD;
        if (!take(in, ','))
            return refuse_value(decoder, KERNEL_NOT_JSON);
        skip_space(in);
    }
}

/* Keep a list of texts; one that does not fit leaves no trace. */
static enum fit keep_list(struct decoder *decoder, struct column *column) {
    struct column *inner = column->inner;
    size_t filled = inner->filled, valid = inner->valid, length = inner->texts.length;
    enum fit fit = append_list(decoder, inner);
    if (fit != HELD) {
        for (size_t slot = filled; slot < inner->filled; slot++)
            inner->validity.start[slot >> 3] &= (uint8_t)~(1u << (slot & 7));
        inner->filled = filled;
        inner->valid = valid;
        inner->texts.length = length;
        return fit;
    }
    column_reach(column, decoder->row);
    column_keep_end(column, decoder->row, inner->filled);
    return HELD;
}

static bool is_object_type(struct span key) {
    static const char NAME[] = "objectType";
    return key.length == sizeof NAME - 1 && memcmp(key.start, NAME, sizeof NAME - 1) == 0;
}

/* Append the text of `{"objectType":"…"}`. */
static enum fit append_object_type(struct decoder *decoder, struct column *inner) {
    struct cursor *in = &decoder->in;
    struct span key;
    enum fit fit = read_span(decoder, &key);
    if (fit != HELD || !is_object_type(key))
        return fit == REFUSED ? REFUSED : UNFIT;
    skip_space(in);
    if (!take(in, ':'))
        return refuse_value(decoder, KERNEL_NOT_JSON);
    skip_space(in);
    return append_text(decoder, inner, decoder->row);
}

static enum fit keep_object_type(struct decoder *decoder, struct column *column) {
    struct cursor *in = &decoder->in;
    struct column *inner = column->inner;
    size_t row = decoder->row, length = inner->texts.length;
    if (!take(in, '{'))
        return UNFIT;
    skip_space(in);
    column_fill(inner, row);
    if (!take(in, '}')) {
        enum fit fit = append_object_type(decoder, inner);
        if (fit != HELD)
            return fit;
        skip_space(in);
        if (!take(in, '}')) { /* another key: nothing of it is kept */
            inner->validity.start[row >> 3] &= (uint8_t)~(1u << (row & 7));
            inner->filled--;
            inner->valid--;
            inner->texts.length = length;
            return UNFIT;
        }
    }
    column_fill(inner, row + 1);
    column_reach(column, row);
    column_keep(column, row);
    return HELD;
}

static enum fit keep(struct decoder *decoder, size_t field) {
    struct column *column = &decoder->columns[field];
    switch (column->kind) {
    case KERNEL_TEXT:
        return append_text(decoder, column, decoder->row);
    case KERNEL_INTEGER:
        return keep_integer(decoder, column);
    case KERNEL_DECIMAL:
        return keep_decimal(decoder, column);
    case KERNEL_DATE:
        return keep_date(decoder, column);
    case KERNEL_BOOLEAN:
        return keep_boolean(decoder, column);
    case KERNEL_TEXT_LIST:
        return keep_list(decoder, column);
    case KERNEL_OBJECT_TYPE:
        return keep_object_type(decoder, column);
    default:
        return append_json(decoder, column, ITEM_DEPTH + 1);
    }
}

/* ---- keys ---- */

static bool is_field(const struct decoder *decoder, size_t key) {
    return key < decoder->schema->count;
}

static struct kernel_stranger *stranger_of(const struct decoder *decoder, size_t key) {
    return &decoder->page->strangers[key - decoder->schema->count];
}

static struct span name_of(const struct decoder *decoder, size_t key) {
    if (is_field(decoder, key))
        return decoder->schema->fields[key].name;
    const struct kernel_stranger *stranger = stranger_of(decoder, key);
    return (struct span){decoder->text + stranger->start, (size_t)stranger->length};
}

/* Return the slot of an unknown key, or the free one where it belongs. */
static size_t stranger_slot(const struct decoder *decoder, struct span name, uint32_t hash) {
    size_t slot = hash & (STRANGER_SLOTS - 1);
    while (decoder->stranger_slots[slot] &&
           !is_name(name_of(decoder, decoder->stranger_slots[slot] - 1u), name))
        slot = (slot + 1) & (STRANGER_SLOTS - 1);
    return slot;
}

/* Add an unknown key, whose name stands in the text. */
static bool add_stranger(struct decoder *decoder, struct span name, size_t field, size_t *key) {
    struct kernel_page *page = decoder->page;
    if (page->stranger_count == KERNEL_MAX_STRANGERS)
        return refuse(decoder, KERNEL_TOO_MANY_KEYS);
    for (size_t place = 0; place < name.length; place++)
        if (name.start[place] >= 0x80) /* it may differ from a field in its case only */
            return refuse(decoder, KERNEL_KEY_SPELLING);
    page->strangers[page->stranger_count] =
        (struct kernel_stranger){(uint64_t)(name.start - decoder->text), name.length, 0};
    decoder->stranger_fields[page->stranger_count++] = field;
    *key = decoder->key_count++;
    return true;
}

static bool is_in_text(const struct decoder *decoder, struct span name) {
    return name.start != decoder->scratch.start;
}

/* Find the number of a key by its name. */
static bool find_key(struct decoder *decoder, struct span name, size_t *key) {
    uint32_t hash = hash_of(name);
    size_t field = schema_find(decoder->schema, name, hash);
    *key = field;
    if (is_field(decoder, field) && is_name(name_of(decoder, field), name))
        return true;
    if (!is_in_text(decoder, name))
        return refuse(decoder, KERNEL_KEY_SPELLING);
    size_t slot = stranger_slot(decoder, name, hash);
    if (decoder->stranger_slots[slot]) {
        *key = decoder->stranger_slots[slot] - 1u;
        return true;
    }
    if (!add_stranger(decoder, name, field, key))
        return false;
    decoder->stranger_slots[slot] = (uint16_t)(*key + 1);
    return true;
}

/* Pass the key that is expected, its quotes and all. */
static bool take_expected(struct decoder *decoder, size_t key) {
    if (key == NO_KEY)
        return false;
    struct span name = name_of(decoder, key);
    const uint8_t *start = decoder->in.at + 1;
    /* The name and the quote behind it, in the text or in the schema. */
    if ((size_t)(decoder->in.end - decoder->in.at) < name.length + 2 ||
        !is_same(start, name.start, name.length + 1))
        return false;
    decoder->in.at += name.length + 2;
    return true;
}

/* Read a key behind the key `before`, 0 at the start of a row, and number it from 1. */
static bool read_row_key(struct decoder *decoder, size_t before, size_t *key) {
    if (next_byte(&decoder->in) != '"')
        return refuse(decoder, KERNEL_NOT_JSON);
    *key = decoder->following[before];
    if (!take_expected(decoder, *key)) {
        struct span name;
        enum fit fit = read_span(decoder, &name);
        if (fit == UNFIT)
            return refuse(decoder, KERNEL_KEY_SPELLING);
        if (fit == REFUSED || !find_key(decoder, name, key))
            return false;
        decoder->following[before] = (uint16_t)*key;
    }
    if (decoder->seen[*key] == decoder->row + 1)
        return refuse(decoder, KERNEL_KEY_TWICE);
    decoder->seen[*key] = decoder->row + 1;
    skip_space(&decoder->in);
    return take(&decoder->in, ':') || refuse(decoder, KERNEL_NOT_JSON);
}

/* ---- what is rescued ---- */

static bool add_name(struct bytes *to, struct span name) {
    return bytes_add_one(to, '"') && bytes_add(to, name.start, name.length) &&
           bytes_add(to, "\":", 2);
}

/* Keep the value at the cursor as JSON text beside its key. */
static bool rescue(struct decoder *decoder, size_t key) {
    struct bytes *left = &decoder->left;
    size_t start = left->length;
    if (!add_name(left, name_of(decoder, key)))
        return refuse(decoder, KERNEL_NO_MEMORY);
    enum kernel_status status = read_value(&decoder->in, left, ITEM_DEPTH + 1);
    if (status != KERNEL_OK)
        return refuse(decoder, status);
    struct entry entry = {(uint32_t)key, start, left->length - start};
    decoder->entries[decoder->entry_count++] = entry;
    if (is_field(decoder, key))
        decoder->page->rescues[key]++;
    else
        stranger_of(decoder, key)->times++;
    return true;
}

/* Whether an entry stands before another: fields in their order, then strangers by name. */
static bool is_before(const struct decoder *decoder, struct entry one, struct entry other) {
    if (is_field(decoder, one.key) || is_field(decoder, other.key))
        return one.key < other.key;
    struct span name = name_of(decoder, one.key), second = name_of(decoder, other.key);
    size_t shared = name.length < second.length ? name.length : second.length;
    int order = memcmp(name.start, second.start, shared);
    return order ? order < 0 : name.length < second.length;
}

/* Sort by insertion: there are few, and mostly in order. */
static void sort_entries(struct decoder *decoder) {
    struct entry *entries = decoder->entries;
    for (size_t place = 1; place < decoder->entry_count; place++) {
        struct entry entry = entries[place];
        size_t to = place;
        for (; to && is_before(decoder, entry, entries[to - 1]); to--)
            entries[to] = entries[to - 1];
        entries[to] = entry;
    }
}

/* Write what is left of a row as one JSON object. */
static bool keep_rescued(struct decoder *decoder) {
    struct column *column = &decoder->columns[decoder->schema->count];
    struct bytes *texts = &column->texts;
    if (!decoder->entry_count)
        return true;
    sort_entries(decoder);
    for (size_t place = 0; place < decoder->entry_count; place++) {
        struct entry entry = decoder->entries[place];
        if (!bytes_add_one(texts, place ? ',' : '{') ||
            !bytes_add(texts, decoder->left.start + entry.start, entry.length))
            return refuse(decoder, KERNEL_NO_MEMORY);
    }
    if (!bytes_add_one(texts, '}'))
        return refuse(decoder, KERNEL_NO_MEMORY);
    column_reach(column, decoder->row);
    column_keep_end(column, decoder->row, texts->length);
    decoder->entry_count = 0;
    decoder->left.length = 0;
    return true;
}

/* ---- rows ---- */

static bool read_field(struct decoder *decoder, size_t field) {
    const uint8_t *value = decoder->in.at;
    if (decoder->schema->null_fits && take_word(&decoder->in, "null", 4))
        return true;
    enum fit fit = keep(decoder, field);
    if (fit == HELD)
        return true;
    if (fit == REFUSED)
        return false;
    decoder->in.at = value;
    return rescue(decoder, field);
}

/* Rescue a value without a field; it may be that of a field in another case. */
static bool read_stranger(struct decoder *decoder, size_t key) {
    size_t field = decoder->stranger_fields[key - decoder->schema->count];
    if (is_field(decoder, field))
        decoder->variants[decoder->variant_count++] = (struct variant){field, decoder->in.at};
    return rescue(decoder, key);
}

/* Whether no key of the row but this one is, in any case, that of its field. */
static bool is_only(const struct decoder *decoder, const struct variant *variant) {
    if (decoder->seen[variant->field] == decoder->row + 1)
        return false;
    for (size_t place = 0; place < decoder->variant_count; place++) {
        const struct variant *other = &decoder->variants[place];
        if (other != variant && other->field == variant->field)
            return false;
    }
    return true;
}

/* Give the fields that are free the values of keys that differ in case only; these stay rescued. */
static bool keep_variants(struct decoder *decoder) {
    struct cursor behind = decoder->in;
    for (size_t place = 0; place < decoder->variant_count; place++) {
        const struct variant *variant = &decoder->variants[place];
        if (!is_only(decoder, variant))
            continue;
        decoder->in.at = variant->value;
        if (keep(decoder, variant->field) == REFUSED)
            return false;
    }
    decoder->in = behind;
    decoder->variant_count = 0;
    return true;
}

static bool read_pairs(struct decoder *decoder) {
    struct cursor *in = &decoder->in;
    size_t before = 0, key = 0;
    for (;;) {
        if (!read_row_key(decoder, before, &key))
            return false;
        skip_space(in);
        if (!(is_field(decoder, key) ? read_field(decoder, key) : read_stranger(decoder, key)))
            return false;
        before = key + 1;
        skip_space(in);
        if (take(in, '}'))
            return true;
        if (!take(in, ','))
            return refuse(decoder, KERNEL_NOT_JSON);
        skip_space(in);
    }
}

static bool read_row(struct decoder *decoder) {
    decoder->in.at++;
    skip_space(&decoder->in);
    if (!take(&decoder->in, '}') && !read_pairs(decoder))
        return false;
    return keep_variants(decoder) && keep_rescued(decoder);
}

bool read_item(struct decoder *decoder) {
    if (!make_room_for_row(decoder))
        return false;
    if (next_byte(&decoder->in) != '{')
        return refuse(decoder, KERNEL_NOT_AN_OBJECT);
    bool is_read = keeps_items(decoder)
                       ? append_json(decoder, &decoder->columns[0], ITEM_DEPTH) == HELD
                       : read_row(decoder);
    decoder->row += is_read;
    return is_read;
}
