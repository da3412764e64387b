/* The decoding kernel: line items as JSON text in, Arrow arrays out, in one pass.
 *
 * A schema is compiled once and only read from then on; each call has all its state to itself. So
 * one schema may serve many threads at the same time. Nothing here knows Python.
 *
 * The kernel gives exactly the arrays that `bulkfetch/decoding/columns.py` gives, or it refuses the
 * text and says why. It never guesses.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define KERNEL_API __declspec(dllexport)
#else
#define KERNEL_API __attribute__((visibility("default")))
#endif

/* Raised with every change of what is declared here: a stale library is not loaded. */
#define KERNEL_ABI 2

/* Offsets of Arrow's text columns have 31 bits; no column is longer than the text. */
#define KERNEL_MAX_BYTES ((uint64_t)1 << 30)
/* Real payloads nest 7 deep. The exact way allows 256; it takes the page in between. */
#define KERNEL_MAX_DEPTH 60
/* The widest declared type has fewer than 100 fields. */
#define KERNEL_MAX_FIELDS 1000
/* Microsoft adds a few fields a year. More unknown names than this are not a schema that grew. */
#define KERNEL_MAX_STRANGERS 250
/* Names of fields have at most 40 characters. */
#define KERNEL_MAX_NAME 250
/* A page has at most 2,000 line items, and each takes memory in all columns, however empty it is.
 * Texts with more rows take the exact way. */
#define KERNEL_MAX_ROWS ((size_t)1 << 20)
/* A decimal has 24 places: an exponent of more than 4 digits is never meant. */
#define KERNEL_MAX_EXPONENT 9999

/* What a field holds, in the words of `bulkfetch/decoding/fields.py`. */
enum kernel_kind {
    KERNEL_TEXT,
    KERNEL_INTEGER,
    KERNEL_DECIMAL,
    KERNEL_DATE,
    KERNEL_BOOLEAN,
    KERNEL_TEXT_LIST,
    KERNEL_OBJECT_TYPE,
    KERNEL_JSON,
    KERNEL_KINDS
};

/* Why a text was refused. */
enum kernel_status {
    KERNEL_OK,
    KERNEL_NO_MEMORY,
    KERNEL_TOO_LARGE,
    KERNEL_NOT_JSON,
    KERNEL_NOT_A_PAGE,
    KERNEL_NOT_AN_OBJECT,
    KERNEL_TOO_DEEP,
    KERNEL_KEY_TWICE,
    KERNEL_KEY_SPELLING,
    KERNEL_TOO_MANY_KEYS,
    KERNEL_LONG_EXPONENT,
    KERNEL_STATUSES
};

/* The Arrow C data interface, as its specification lays it out. */
struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

struct kernel_schema;

/* An unknown key of the line items: where its name first stands in the text, how often it came. */
struct kernel_stranger {
    uint64_t start;
    uint64_t length;
    uint64_t times;
};

/* What a call found. The caller owns all of it; `array` is to be released if it has a `release`. */
struct kernel_page {
    /* One struct array: a child for each field, then the rescued text. */
    struct ArrowArray array;
    /* How often each field was rescued is added here: room for as many counts as the schema has
     * fields, zero before the call. */
    uint64_t *rescues;
    struct kernel_stranger *strangers; /* room for KERNEL_MAX_STRANGERS */
    uint64_t stranger_count;
    uint64_t rows;
    /* The value of `items`, from its bracket to behind its closing one. */
    uint64_t items_start;
    uint64_t items_end;
    /* Where the text was refused. */
    uint64_t stopped_at;
};

KERNEL_API int32_t kernel_abi(void);

/* Return the Arrow format of the columns of a kind, or NULL. Nested columns have texts in them. */
KERNEL_API const char *kernel_format(int32_t kind);

/* Say in English what a status means, or return NULL. */
KERNEL_API const char *kernel_reason(int32_t status);

/* Compile a schema: `names` one after the other, each followed by a NUL. Returns NULL for a schema
 * that the kernel cannot have, or without memory. Without fields, each item becomes one JSON text.
 * Where `null_fits` is not 0, a column without a value says all that a null of JSON does.
 */
KERNEL_API struct kernel_schema *kernel_compile(const char *names, const int32_t *kinds,
                                                int32_t count, int32_t null_fits);
KERNEL_API void kernel_free(struct kernel_schema *schema);

/* Decode a page: a JSON object whose `items` are line items. */
KERNEL_API int32_t kernel_decode_page(const struct kernel_schema *schema, const uint8_t *text,
                                      uint64_t length, struct kernel_page *page);

/* Decode JSON lines: one line item a line. Blank lines are skipped. */
KERNEL_API int32_t kernel_decode_lines(const struct kernel_schema *schema, const uint8_t *text,
                                       uint64_t length, struct kernel_page *page);

/* Find the items of a page without decoding them. Needs room neither for rescues nor strangers. */
KERNEL_API int32_t kernel_find_items(const uint8_t *text, uint64_t length,
                                     struct kernel_page *page);

/* Return 1 if a text has another one in it, else 0. */
KERNEL_API int32_t kernel_has(const uint8_t *text, uint64_t length, const uint8_t *sought,
                              uint64_t sought_length);

/* Return 1 if a text has an escape, of JSON or URLs, of an ASCII letter or digit, of `-`, `_` or
 * `%`, which need none; else 0. */
KERNEL_API int32_t kernel_has_escape(const uint8_t *text, uint64_t length);

/* Release an array that nobody took; does nothing to one that is released. */
KERNEL_API void kernel_release(struct ArrowArray *array);

#endif
