/* Mutated texts through every call of the kernel: no crash, no leak, and sound arrays.
 *
 *     fuzz SCHEMA ROUNDS SEED MOST_BYTES FILE...      mutate files, and report the first finding
 *     fuzz SCHEMA 0 0 0 FILE...                       only replay the files as they are
 *
 * SCHEMA is a file with a kind and a name on each line. With -DLIBFUZZER it is a target of
 * libFuzzer instead, with the schema of the environment variable SCHEMA.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "heap.h"

enum { MOST_FIELDS = 400, MOST_FILES = 4000 };

static struct kernel_schema *schema, *with_nulls, *no_fields;
static int32_t kinds[MOST_FIELDS], count;

/* ---- one text ---- */

typedef int32_t (*call)(const struct kernel_schema *, const uint8_t *, uint64_t,
                        struct kernel_page *);

/* Decode a text, check what comes, and release it. */
static int32_t try_call(call decode, const struct kernel_schema *with, const uint8_t *text,
                        size_t length, struct kernel_page *page) {
    static const int32_t NO_KINDS[1];
    uint64_t rescues[MOST_FIELDS] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    page->rescues = rescues;
    page->strangers = strangers;
    int32_t status = decode(with, text, length, page);
    CHECK(kernel_reason(status) && page->stopped_at <= length);
    if (status == KERNEL_OK) {
        CHECK(page->stranger_count <= KERNEL_MAX_STRANGERS);
        for (uint64_t place = 0; place < page->stranger_count; place++)
            CHECK(strangers[place].start + strangers[place].length < length &&
                  strangers[place].times <= page->rows);
        check_rows(page, with == no_fields ? NO_KINDS : kinds, with == no_fields ? 0 : count);
        kernel_release(&page->array);
    }
    CHECK(!page->array.release);
    return status;
}

static bool has_by_bytes(const uint8_t *text, size_t length, const uint8_t *sought, size_t size) {
    for (size_t at = 0; at + size <= length; at++)
        if (!size || (text[at] == sought[0] && memcmp(text + at, sought, size) == 0))
            return true;
    return false;
}

/* Look for a run of the text, and for the same with another byte. */
static void try_finding(const uint8_t *text, size_t length) {
    uint8_t sought[40];
    size_t from = length / 3, size = length - from;
    if (size > sizeof sought)
        size = sizeof sought;
    memcpy(sought, text + from, size);
    CHECK(kernel_has(text, length, sought, size));
    if (size)
        sought[size / 2] ^= 1;
    CHECK(kernel_has(text, length, sought, size) == has_by_bytes(text, length, sought, size));
    kernel_has_escape(text, length);
}

static void try_text(const uint8_t *text, size_t length) {
    long before = heap_live;
    uint8_t *copy = malloc(length ? length : 1); /* ends exactly at the last byte */
    CHECK(copy);
    memcpy(copy, text, length);
    struct kernel_page page = {0}, found = {0}, whole = {0};
    int32_t status = try_call(kernel_decode_page, schema, copy, length, &page);
    int32_t has_items = kernel_find_items(copy, length, &found);
    if (status == KERNEL_OK) {
        CHECK(has_items == KERNEL_OK && copy[page.items_start] == '[');
        CHECK(page.items_start == found.items_start && page.items_end == found.items_end);
    }
    if (status == KERNEL_OK) {
        uint64_t rows = page.rows;
        CHECK(try_call(kernel_decode_page, with_nulls, copy, length, &page) == KERNEL_OK);
        CHECK(page.rows == rows);
    }
    if (try_call(kernel_decode_page, no_fields, copy, length, &whole) == KERNEL_OK) {
        CHECK(has_items == KERNEL_OK);
        CHECK(status != KERNEL_OK || whole.rows == page.rows);
    }
    try_call(kernel_decode_lines, schema, copy, length, &page);
    if (has_items == KERNEL_OK) /* the items as a line each, where they stand so */
        try_call(kernel_decode_lines, schema, copy + found.items_start + 1,
                 (size_t)(found.items_end - found.items_start - 2), &page);
    try_finding(copy, length);
    free(copy);
    CHECK(heap_live == before);
}

/* ---- the schema ---- */

static void read_schema(const char *path) {
    static char names[MOST_FIELDS * (KERNEL_MAX_NAME + 1)];
    char name[KERNEL_MAX_NAME + 1];
    size_t length = 0;
    FILE *file = fopen(path, "r");
    CHECK(file);
    while (count < MOST_FIELDS && fscanf(file, "%" SCNd32 " %250s", &kinds[count], name) == 2) {
        memcpy(names + length, name, strlen(name) + 1);
        length += strlen(name) + 1;
        count++;
    }
    fclose(file);
    schema = kernel_compile(names, kinds, count, 0);
    with_nulls = kernel_compile(names, kinds, count, 1);
    no_fields = kernel_compile("", kinds, 0, 0);
    CHECK(schema && with_nulls && no_fields && count);
}

#if defined(LIBFUZZER)

int LLVMFuzzerInitialize(int *argument_count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *text, size_t length);

int LLVMFuzzerInitialize(int *argument_count, char ***arguments) {
    (void)argument_count, (void)arguments;
    read_schema(getenv("SCHEMA"));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *text, size_t length) {
    try_text(text, length);
    return 0;
}

#else

/* ---- mutations ---- */

struct text {
    uint8_t *start;
    size_t length;
};

static uint64_t state;

static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? state % below : 0;
}

/* What JSON and this kernel look at. */
static const char *const TOKENS[] = {"\"",
                                     "\\",
                                     "\\\"",
                                     "\\u0000",
                                     "\\ud83d",
                                     "\\ude00",
                                     "\\u0041",
                                     "{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "null",
                                     "true",
                                     "false",
                                     "0",
                                     "-",
                                     "e5",
                                     "E-9",
                                     "1e400",
                                     ".5",
                                     "\n",
                                     "\r\n",
                                     " ",
                                     "\xFF",
                                     "\xC3\xA9",
                                     "\xF0\x9F\x98\x80",
                                     "\xED\xA0\x80",
                                     "\"items\":[",
                                     "{}",
                                     "[]",
                                     "\"a\":1,",
                                     "\"\":\"\",",
                                     "99999999999999.999999999999999999999999",
                                     "9223372036854775808",
                                     "\"1.50\"",
                                     "\"007\"",
                                     "0.0000000000000000000000001",
                                     "2020-01-01T00:00:00.1234567Z",
                                     "-00:00",
                                     "+23:59",
                                     "\x00\x01",
                                     "{\"objectType\":\"x\"}",
                                     "[\"a\",null]",
                                     "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
                                     "]]]]]]]]]]]]"};

static void splice(struct text *text, size_t most, size_t at, size_t removed, const void *with,
                   size_t added) {
    if (text->length - removed + added > most)
        return;
    memmove(text->start + at + added, text->start + at + removed, text->length - at - removed);
    memmove(text->start + at, with, added);
    text->length += added - removed;
}

static size_t draw_run(size_t most) { return (size_t)draw(most < 40 ? most + 1 : 40); }

static void mutate(struct text *text, size_t most, const struct text *other) {
    size_t at = (size_t)draw(text->length + 1), left = text->length - at;
    const char *token = TOKENS[draw(sizeof TOKENS / sizeof *TOKENS)];
    switch (draw(8)) {
    case 0:
        if (left)
            text->start[at] ^= (uint8_t)(1u << draw(8));
        break;
    case 1:
        if (left)
            text->start[at] = (uint8_t)draw(256);
        break;
    case 2:
        splice(text, most, at, draw_run(left), "", 0);
        break;
    case 3:
        splice(text, most, at, 0, token, strlen(token));
        break;
    case 4:
        splice(text, most, at, draw_run(left), token, strlen(token));
        break;
    case 5: { /* a run of the same text once more */
        uint8_t run[40];
        size_t length = draw_run(left);
        memcpy(run, text->start + at, length);
        splice(text, most, (size_t)draw(text->length + 1), 0, run, length);
        break;
    }
    case 6: { /* a run of another text */
        size_t from = (size_t)draw(other->length + 1), gone = draw_run(left);
        splice(text, most, at, gone, other->start + from, draw_run(other->length - from));
        break;
    }
    default:
        if (draw(8) == 0)
            text->length = at; /* cut */
    }
}

/* ---- running ---- */

static struct text read_file(const char *path) {
    struct text text = {0};
    FILE *file = fopen(path, "rb");
    CHECK(file && !fseek(file, 0, SEEK_END));
    long length = ftell(file);
    CHECK(length >= 0 && !fseek(file, 0, SEEK_SET));
    text.length = (size_t)length;
    text.start = malloc(text.length + 1);
    CHECK(text.start && fread(text.start, 1, text.length, file) == text.length);
    fclose(file);
    return text;
}

static void run_rounds(const struct text *files, size_t file_count, long rounds, size_t most) {
    uint8_t *room = malloc(most + 1);
    CHECK(room);
    for (long round = 0; round < rounds; round++) {
        const struct text *file = &files[draw(file_count)];
        struct text text = {room, file->length < most ? file->length : most};
        memcpy(room, file->start, text.length);
        for (uint64_t times = 1 + draw(5); times; times--)
            mutate(&text, most, &files[draw(file_count)]);
        try_text(text.start, text.length);
    }
    free(room);
}

int main(int argument_count, char **arguments) {
    static struct text files[MOST_FILES];
    size_t file_count = 0;
    CHECK(argument_count > 5 && argument_count - 5 <= MOST_FILES);
    read_schema(arguments[1]);
    long rounds = atol(arguments[2]);
    state = strtoull(arguments[3], NULL, 10) * 0x9E3779B97F4A7C15ull + 1;
    size_t most = (size_t)atol(arguments[4]);
    for (int place = 5; place < argument_count; place++)
        files[file_count++] = read_file(arguments[place]);
    for (size_t place = 0; place < file_count; place++)
        try_text(files[place].start, files[place].length);
    run_rounds(files, file_count, rounds, most);
    for (size_t place = 0; place < file_count; place++)
        free(files[place].start);
    kernel_free(schema);
    kernel_free(with_nulls);
    kernel_free(no_fields);
    printf("%ld rounds, %zu files, no finding\n", rounds, file_count);
    return 0;
}

#endif
