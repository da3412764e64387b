#include "kernel.h"

#include <stdlib.h>

#include "rows.h"

int32_t kernel_abi(void) { return KERNEL_ABI; }

const char *kernel_format(int32_t kind) {
    static const char *const FORMATS[KERNEL_KINDS] = {
        [KERNEL_TEXT] = "u",         [KERNEL_INTEGER] = "l", [KERNEL_DECIMAL] = "d:38,24",
        [KERNEL_DATE] = "tsu:UTC",   [KERNEL_BOOLEAN] = "b", [KERNEL_TEXT_LIST] = "+l",
        [KERNEL_OBJECT_TYPE] = "+s", [KERNEL_JSON] = "u",
    };
    return kind >= 0 && kind < KERNEL_KINDS ? FORMATS[kind] : NULL;
}

const char *kernel_reason(int32_t status) {
    static const char *const REASONS[KERNEL_STATUSES] = {
        [KERNEL_OK] = "nothing is wrong",
        [KERNEL_NO_MEMORY] = "there is not enough memory",
        [KERNEL_TOO_LARGE] = "it is too large",
        [KERNEL_NOT_JSON] = "it is not JSON",
        [KERNEL_NOT_A_PAGE] = "it is not a page",
        [KERNEL_NOT_AN_OBJECT] = "an item is not an object",
        [KERNEL_TOO_DEEP] = "it nests values too deep",
        [KERNEL_KEY_TWICE] = "an object has a key twice",
        [KERNEL_KEY_SPELLING] = "an unknown key has escapes or is not ASCII",
        [KERNEL_TOO_MANY_KEYS] = "it has too many unknown keys",
        [KERNEL_LONG_EXPONENT] = "a number has a long exponent",
    };
    return status >= 0 && status < KERNEL_STATUSES ? REASONS[status] : NULL;
}

/* ---- pages ---- */

/* What is done with an item: it becomes a row, or it is passed over. */
typedef bool (*item_reader)(struct decoder *);

static bool skip_item(struct decoder *decoder) {
    enum kernel_status status = read_value(&decoder->in, NULL, ITEM_DEPTH);
    return status == KERNEL_OK || refuse(decoder, status);
}

static bool read_items(struct decoder *decoder, item_reader read) {
    struct cursor *in = &decoder->in;
    decoder->page->items_start = (uint64_t)(in->at - decoder->text);
    if (!take(in, '['))
        return refuse(decoder, KERNEL_NOT_A_PAGE);
    skip_space(in);
    bool is_empty = take(in, ']');
    while (!is_empty) {
        if (!read(decoder))
            return false;
        skip_space(in);
        if (take(in, ']'))
            break;
        if (!take(in, ','))
            return refuse(decoder, KERNEL_NOT_JSON);
        skip_space(in);
    }
    decoder->page->items_end = (uint64_t)(in->at - decoder->text);
    return true;
}

static bool is_items(struct span key) {
    return key.length == 5 && memcmp(key.start, "items", 5) == 0;
}

/* Read a key at the top of a page, and tell whether it is `items`. */
static bool read_top_key(struct decoder *decoder, bool *is_of_items) {
    struct span key;
    bool is_lone;
    if (!take(&decoder->in, '"'))
        return refuse(decoder, KERNEL_NOT_JSON);
    const uint8_t *start = decoder->in.at;
    enum kernel_status status = read_string(&decoder->in, &decoder->scratch, &key, &is_lone);
    if (status != KERNEL_OK)
        return refuse(decoder, status);
    if (key.start != start) /* the exact way has its own view of where odd pages have their rows */
        return refuse(decoder, KERNEL_KEY_SPELLING);
    *is_of_items = is_items(key);
    skip_space(&decoder->in);
    if (!take(&decoder->in, ':'))
        return refuse(decoder, KERNEL_NOT_JSON);
    skip_space(&decoder->in);
    return true;
}

/* Read one key and value at the top of a page. */
static bool read_top_pair(struct decoder *decoder, item_reader read, bool *has_items) {
    bool is_of_items = false;
    if (!read_top_key(decoder, &is_of_items))
        return false;
    if (is_of_items && *has_items)
        return refuse(decoder, KERNEL_KEY_TWICE);
    if (is_of_items) {
        *has_items = true;
        return read_items(decoder, read);
    }
    enum kernel_status status = read_value(&decoder->in, NULL, 1);
    return status == KERNEL_OK || refuse(decoder, status);
}

static bool read_page(struct decoder *decoder, item_reader read) {
    struct cursor *in = &decoder->in;
    bool has_items = false;
    skip_space(in);
    if (!take(in, '{'))
        return refuse(decoder, KERNEL_NOT_A_PAGE);
    skip_space(in);
    bool is_empty = take(in, '}');
    while (!is_empty) {
        if (!read_top_pair(decoder, read, &has_items))
            return false;
        skip_space(in);
        if (take(in, '}'))
            break;
        if (!take(in, ','))
            return refuse(decoder, KERNEL_NOT_JSON);
        skip_space(in);
    }
    skip_space(in);
    if (in->at != in->end)
        return refuse(decoder, KERNEL_NOT_JSON);
    return has_items || refuse(decoder, KERNEL_NOT_A_PAGE);
}

static bool decode_page(struct decoder *decoder) {
    return read_page(decoder, read_item) && hand_over_rows(decoder);
}

static bool find_items(struct decoder *decoder) { return read_page(decoder, skip_item); }

/* ---- lines ---- */

/* Read one line, whose end is the end of what the cursor sees. */
static bool read_line(struct decoder *decoder) {
    skip_space(&decoder->in);
    if (decoder->in.at == decoder->in.end)
        return true;
    if (!read_item(decoder))
        return false;
    skip_space(&decoder->in);
    return decoder->in.at == decoder->in.end || refuse(decoder, KERNEL_NOT_JSON);
}

static bool decode_lines(struct decoder *decoder) {
    const uint8_t *end = decoder->in.end;
    while (decoder->in.at < end) {
        size_t left = (size_t)(end - decoder->in.at);
        const uint8_t *line_end = memchr(decoder->in.at, '\n', left);
        decoder->in.end = line_end ? line_end : end;
        if (!read_line(decoder))
            return false;
        decoder->in.at = line_end ? line_end + 1 : end;
    }
    return hand_over_rows(decoder);
}

/* ---- calls ---- */

static const struct kernel_schema NO_FIELDS;

static int32_t run(bool (*work)(struct decoder *), const struct kernel_schema *schema,
                   const uint8_t *text, uint64_t length, struct kernel_page *page) {
    struct decoder *decoder = malloc(sizeof *decoder);
    page->array = (struct ArrowArray){0};
    page->stranger_count = page->rows = page->items_start = page->items_end = page->stopped_at = 0;
    if (!decoder)
        return KERNEL_NO_MEMORY;
    if (length > KERNEL_MAX_BYTES) {
        free(decoder);
        return KERNEL_TOO_LARGE;
    }
    bool is_done = decoder_open(decoder, schema, text, (size_t)length, page) && work(decoder);
    if (!is_done)
        page->stopped_at = (uint64_t)(decoder->in.at - text);
    int32_t status = is_done ? KERNEL_OK : (int32_t)decoder->status;
    decoder_close(decoder);
    free(decoder);
    return status;
}

int32_t kernel_decode_page(const struct kernel_schema *schema, const uint8_t *text, uint64_t length,
                           struct kernel_page *page) {
    return run(decode_page, schema, text, length, page);
}

int32_t kernel_decode_lines(const struct kernel_schema *schema, const uint8_t *text,
                            uint64_t length, struct kernel_page *page) {
    return run(decode_lines, schema, text, length, page);
}

int32_t kernel_find_items(const uint8_t *text, uint64_t length, struct kernel_page *page) {
    return run(find_items, &NO_FIELDS, text, length, page);
}
