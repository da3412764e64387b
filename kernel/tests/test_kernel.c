/* The parts of the kernel one by one, all of it without memory, and all of it in many threads.
 *
 * `python tests/whole/fuzz/kernel.py --tests` compiles and runs it, with sanitizers and without.
 */
#include <pthread.h>
#include <string.h>

#include "../rows.h"
#include "check.h"
#include "heap.h"

static struct span span_of(const char *text) {
    return (struct span){(const uint8_t *)text, strlen(text)};
}

/* Return a copy of a text that ends exactly at its last byte, so that a sanitizer sees the next. */
static uint8_t *exact_copy(const char *text, size_t length) {
    uint8_t *copy = malloc(length ? length : 1);
    CHECK(copy);
    memcpy(copy, text, length);
    return copy;
}

/* ---- numbers ---- */

static bool decimal(const char *text, u128 *value) {
    struct number number;
    struct cursor in = {(const uint8_t *)text, (const uint8_t *)text + strlen(text)};
    CHECK(read_number(&in, &number) && in.at == in.end && !number.has_long_exponent);
    return decimal_of(&number, value);
}

static bool integer(const char *text, int64_t *value) {
    struct number number;
    struct cursor in = {(const uint8_t *)text, (const uint8_t *)text + strlen(text)};
    CHECK(read_number(&in, &number) && in.at == in.end && !number.has_long_exponent);
    return integer_of(&number, value);
}

static void test_decimals_have_24_places(void) {
    u128 value, one = power_of_ten(24);
    CHECK(decimal("1", &value) && value == one);
    CHECK(decimal("-1.10", &value) && value == -(one + one / 10));
    CHECK(decimal("-0", &value) && value == 0);
    CHECK(decimal("0e9999", &value) && value == 0);
    CHECK(decimal("1e5", &value) && value == 100000 * one);
    CHECK(decimal("0.000000000000000000000001", &value) && value == 1);
    CHECK(decimal("1e-24", &value) && value == 1);
    CHECK(!decimal("1e-25", &value));
    CHECK(!decimal("0.0000000000000000000000001", &value));
    CHECK(decimal("0.10000000000000000000000000", &value) && value == one / 10);
    CHECK(decimal("99999999999999.999999999999999999999999", &value));
    CHECK(value == power_of_ten(38) - 1);
    CHECK(!decimal("100000000000000", &value));
    CHECK(!decimal("1e14", &value) && decimal("100000000000000e-1", &value));
    CHECK(decimal("10000000000000.00000000000000000000000000000", &value));
    CHECK(!decimal("340282366920938463463374607431768211457", &value));
}

static void test_integers_have_64_bits(void) {
    int64_t value;
    CHECK(integer("9223372036854775807", &value) && value == INT64_MAX);
    CHECK(integer("-9223372036854775808", &value) && value == INT64_MIN);
    CHECK(!integer("9223372036854775808", &value) && !integer("-9223372036854775809", &value));
    CHECK(!integer("18446744073709551617", &value));
    CHECK(integer("9e18", &value) && value == 9000000000000000000);
    CHECK(integer("10.000", &value) && value == 10);
    CHECK(integer("10e-1", &value) && value == 1);
    CHECK(!integer("1.5", &value) && !integer("1e19", &value) && !integer("1e-1", &value));
}

static void test_numbers_are_spelled_as_json_asks(void) {
    static const char *const WRONG[] = {"",     "-",  "+1",  "01", "-01", ".5",  "1.",
                                        "1.e1", "1e", "1e+", "e1", "0x1", "--1", "1.2.3"};
    for (size_t place = 0; place < sizeof WRONG / sizeof *WRONG; place++) {
        struct number number;
        CHECK(!number_of_text(span_of(WRONG[place]), &number));
    }
    struct number number;
    CHECK(number_of_text(span_of("-12.50"), &number) && number.is_negative);
    CHECK(!number_of_text(span_of("1e5"), &number)); /* a text is a plain number or none */
    CHECK(!number_of_text(span_of("1 "), &number));
}

/* ---- dates ---- */

static bool date(const char *text, int64_t *value, bool *is_exact) {
    size_t length = strlen(text);
    uint8_t *copy = exact_copy(text, length);
    bool is_date = date_of((struct span){copy, length}, value, is_exact);
    free(copy);
    return is_date;
}

static void test_dates(void) {
    int64_t value;
    bool is_exact;
    CHECK(date("1970-01-01T00:00:00", &value, &is_exact) && value == 0 && is_exact);
    CHECK(date("0001-01-01T00:00:00", &value, &is_exact) && value == -62135596800000000);
    CHECK(date("2000-02-29T23:59:59.999999Z", &value, &is_exact) && is_exact);
    CHECK(value == 951868799999999);
    CHECK(date("2018-02-08T22:40:37.5897760+00:00", &value, &is_exact) && is_exact);
    CHECK(date("2018-02-08T22:40:37.5897767Z", &value, &is_exact) && !is_exact);
    CHECK(date("2018-02-08T22:40:37-00:00", &value, &is_exact) && !is_exact);
    CHECK(date("1970-01-01T01:00:00+01:00", &value, &is_exact) && value == 0 && !is_exact);
    CHECK(date("2025-04-03", &value, &is_exact) && value == 1743638400000000 && is_exact);
    CHECK(date("0001-01-01", &value, &is_exact) && value == -62135596800000000 && is_exact);
    static const char *const WRONG[] = {"",
                                        "2000-01-0",
                                        "2000-01-32",
                                        "2000-01-01T",
                                        "2000-01-01Z",
                                        "1900-02-29T00:00:00",
                                        "2000-13-01T00:00:00",
                                        "2000-00-01T00:00:00",
                                        "2000-01-32T00:00:00",
                                        "0000-01-01T00:00:00",
                                        "2000-01-01T24:00:00",
                                        "2000-01-01T00:60:00",
                                        "2000-01-01T00:00:60",
                                        "2000-01-01t00:00:00",
                                        "2000-01-01T00:00:00.",
                                        "2000-01-01T00:00:00z",
                                        "2000-01-01T00:00:00+0100",
                                        "2000-01-01T00:00:00+24:00",
                                        "2000-01-01T00:00:00+01:60",
                                        "2000-01-01T00:00:00ZZ",
                                        "0001-01-01T00:00:00+00:01",
                                        "9999-12-31T23:59:59-00:01",
                                        "2000-01-01T00:00:00+01:0",
                                        "2000-01-01T00:00:0"};
    for (size_t place = 0; place < sizeof WRONG / sizeof *WRONG; place++)
        CHECK(!date(WRONG[place], &value, &is_exact));
}

/* ---- text ---- */

static enum kernel_status compact(const char *text, size_t length, struct bytes *to) {
    uint8_t *copy = exact_copy(text, length);
    struct cursor in = {copy, copy + length};
    enum kernel_status status = read_value(&in, to, 0);
    if (status == KERNEL_OK && in.at != in.end)
        status = KERNEL_NOT_JSON;
    struct cursor again = {copy, copy + length};
    CHECK(read_value(&again, NULL, 0) == KERNEL_OK || status != KERNEL_OK);
    free(copy);
    return status;
}

static void test_values_are_copied_with_few_escapes(void) {
    static const char *const PAIRS[][2] = {
        {"{ \"a\" : [ 1.50 , null ] }", "{\"a\":[1.50,null]}"},
        {"\"\\u0041\\/\\b\\u001f\\\"\\\\\"", "\"A/\\b\\u001f\\\"\\\\\""},
        {"\"\\ud83d\\ude00\"", "\"\xF0\x9F\x98\x80\""},
        {"\"\\uD83D\\u0041\\uDE00\"", "\"\\ud83dA\\ude00\""},
        {"[]", "[]"},
        {"[{},[[]],{\"\":{}}]", "[{},[[]],{\"\":{}}]"},
        {"-0.0E+01", "-0.0E+01"},
    };
    for (size_t place = 0; place < sizeof PAIRS / sizeof *PAIRS; place++) {
        struct bytes to = {0};
        CHECK(compact(PAIRS[place][0], strlen(PAIRS[place][0]), &to) == KERNEL_OK);
        CHECK(to.length == strlen(PAIRS[place][1]));
        CHECK(memcmp(to.start, PAIRS[place][1], to.length) == 0);
        bytes_free(&to);
    }
}

static void test_what_is_not_json_is_refused(void) {
    static const char *const WRONG[] = {"",
                                        " ",
                                        "[",
                                        "]",
                                        "{",
                                        "[1,]",
                                        "{\"a\":1,}",
                                        "{\"a\"}",
                                        "{a:1}",
                                        "[1 2]",
                                        "nul",
                                        "NaN",
                                        "\"",
                                        "\"\\",
                                        "\"\\u12",
                                        "\"\\x\"",
                                        "\"\n\"",
                                        "\"\x7F",
                                        "[}",
                                        "{]",
                                        "tru",
                                        "\"\\ud83d\\",
                                        "1]",
                                        "\"\xFF\"",
                                        "\"\xC0\x80\"",
                                        "\"\xED\xA0\x80\"",
                                        "\"\xF4\x90\x80\x80\"",
                                        "\"\xE2\x82\"",
                                        "\"\xF0\x80\x80\x80\""};
    for (size_t place = 0; place < sizeof WRONG / sizeof *WRONG; place++) {
        struct bytes to = {0};
        CHECK(compact(WRONG[place], strlen(WRONG[place]), &to) == KERNEL_NOT_JSON);
        bytes_free(&to);
    }
    struct bytes to = {0};
    CHECK(compact("\"a\0b\"", 5, &to) == KERNEL_NOT_JSON);
    bytes_free(&to);
}

static void test_depth_is_bounded(void) {
    char text[2 * KERNEL_MAX_DEPTH + 2];
    for (size_t depth = KERNEL_MAX_DEPTH; depth <= KERNEL_MAX_DEPTH + 1; depth++) {
        struct bytes to = {0};
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        CHECK(compact(text, 2 * depth, &to) ==
              (depth > KERNEL_MAX_DEPTH ? KERNEL_TOO_DEEP : KERNEL_OK));
        bytes_free(&to);
    }
}

static void test_every_place_of_a_quote_in_a_block_is_found(void) {
    for (size_t length = 0; length < 3 * BLOCK; length++) {
        char text[3 * BLOCK + 1];
        memset(text, 'x', length);
        text[length] = '"';
        uint8_t *copy = exact_copy(text, length + 1);
        struct cursor in = {copy, copy + length + 1};
        struct bytes to = {0};
        bool is_lone = false;
        CHECK(copy_string(&in, &to, AS_TEXT, &is_lone) == KERNEL_OK);
        CHECK(to.length == length && in.at == in.end);
        bytes_free(&to);
        free(copy);
    }
}

/* ---- schemas ---- */

static void test_schemas(void) {
    const int32_t kinds[] = {KERNEL_TEXT, KERNEL_DATE};
    struct kernel_schema *schema = kernel_compile("name\0when\0", kinds, 2, 0);
    CHECK(schema);
    CHECK(schema_find(schema, span_of("when"), hash_of(span_of("when"))) == 1);
    CHECK(schema_find(schema, span_of("WHEN"), hash_of(span_of("WHEN"))) == 1);
    CHECK(schema_find(schema, span_of("whence"), hash_of(span_of("whence"))) == 2);
    kernel_free(schema);
    CHECK(!kernel_compile("name\0Name\0", kinds, 2, 0)); /* which one would `NAME` be? */
    CHECK(!kernel_compile("na\"me\0when\0", kinds, 2, 0));
    CHECK(!kernel_compile("n\xC3\xA4me\0when\0", kinds, 2, 0));
    const int32_t unknown[] = {KERNEL_KINDS};
    CHECK(!kernel_compile("name\0", unknown, 1, 0));
    CHECK(!kernel_compile("", kinds, -1, 0));
    CHECK(!kernel_compile("", kinds, KERNEL_MAX_FIELDS + 1, 0));
    kernel_free(NULL);
}

static void test_each_status_and_kind_has_its_words(void) {
    for (int32_t status = 0; status < KERNEL_STATUSES; status++)
        CHECK(kernel_reason(status));
    for (int32_t kind = 0; kind < KERNEL_KINDS; kind++)
        CHECK(kernel_format(kind));
    CHECK(!kernel_reason(-1) && !kernel_reason(KERNEL_STATUSES));
    CHECK(!kernel_format(-1) && !kernel_format(KERNEL_KINDS));
}

/* ---- whole texts ---- */

static const char NAMES[] = "text\0whole\0money\0when\0is\0list\0kind\0json\0";
static const int32_t KINDS[] = {KERNEL_TEXT,    KERNEL_INTEGER,   KERNEL_DECIMAL,     KERNEL_DATE,
                                KERNEL_BOOLEAN, KERNEL_TEXT_LIST, KERNEL_OBJECT_TYPE, KERNEL_JSON};
enum { FIELDS = sizeof KINDS / sizeof *KINDS };

#define ROW                                                                                        \
    "{\"text\":\"a\\u00e9\",\"whole\":\"12\",\"money\":1.5,\"when\":\"2020-01-01T00:00:00."        \
    "1234567\","                                                                                   \
    "\"is\":true,\"list\":[\"x\",null],\"kind\":{\"objectType\":\"y\"},\"json\":[1, 2]}"
#define ODD_ROW                                                                                    \
    "{\"foreign\":{\"a\":[1]},\"Text\":\"b\",\"whole\":null,\"money\":\"\",\"is\":0,"              \
    "\"list\":[\"x\",5],\"kind\":{\"objectType\":\"y\",\"z\":1},\"json\":7}"

typedef int32_t (*kernel_call)(const struct kernel_schema *, const uint8_t *, uint64_t,
                               struct kernel_page *);

static int32_t decode(const struct kernel_schema *schema, const char *text, size_t length,
                      struct kernel_page *page, kernel_call call) {
    uint8_t *copy = exact_copy(text, length);
    int32_t status = call(schema, copy, length, page);
    free(copy);
    return status;
}

static void check_value(const struct ArrowArray *column, int64_t slot, const char *expected) {
    int32_t ends[2];
    memcpy(ends, (const uint8_t *)column->buffers[1] + (size_t)slot * 4, sizeof ends);
    CHECK((size_t)(ends[1] - ends[0]) == strlen(expected));
    CHECK(memcmp((const uint8_t *)column->buffers[2] + ends[0], expected, strlen(expected)) == 0);
}

/* Of the same row, what is rescued without and with columns that hold a null. */
static void test_nulls(void) {
    static const char TEXT[] = "{\"text\":null,\"whole\":null,\"money\":null,\"when\":null,"
                               "\"is\":null,\"list\":null,\"kind\":null,\"json\":null}";
    for (int32_t fits = 0; fits < 2; fits++) {
        struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, fits);
        uint64_t rescues[FIELDS] = {0};
        struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
        struct kernel_page page = {.rescues = rescues, .strangers = strangers};
        CHECK(decode(schema, TEXT, sizeof TEXT - 1, &page, kernel_decode_lines) == KERNEL_OK);
        for (int64_t child = 0; child < FIELDS; child++)
            CHECK(page.array.children[child]->null_count == 1 && rescues[child] == !fits);
        CHECK(page.array.children[FIELDS]->null_count == fits);
        kernel_release(&page.array);
        kernel_free(schema);
    }
}

static void test_a_page(void) {
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, 0);
    uint64_t rescues[FIELDS] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    struct kernel_page page = {.rescues = rescues, .strangers = strangers};
    static const char PAGE[] = "{\"totalCount\":2, \"items\" : [" ROW "," ODD_ROW "] }";
    CHECK(decode(schema, PAGE, sizeof PAGE - 1, &page, kernel_decode_page) == KERNEL_OK);
    CHECK(page.rows == 2 && page.stranger_count == 2);
    CHECK(PAGE[page.items_start] == '[' && PAGE[page.items_end - 1] == ']');
    check_rows(&page, KINDS, FIELDS);
    check_value(page.array.children[0], 0, "a\xC3\xA9");
    check_value(page.array.children[0], 1, "b"); /* by a key in another case */
    check_value(page.array.children[FIELDS], 0, "{\"when\":\"2020-01-01T00:00:00.1234567\"}");
    check_value(page.array.children[FIELDS], 1,
                "{\"whole\":null,\"money\":\"\",\"is\":0,\"list\":[\"x\",5],"
                "\"kind\":{\"objectType\":\"y\",\"z\":1},\"json\":7,"
                "\"Text\":\"b\",\"foreign\":{\"a\":[1]}}");
    CHECK(rescues[1] == 1 && rescues[3] == 1 && rescues[0] == 0);
    /* A child that is moved out lives on. */
    struct ArrowArray moved = *page.array.children[0];
    page.array.children[0]->release = NULL;
    kernel_release(&page.array);
    CHECK(!page.array.release);
    kernel_release(&page.array); /* does nothing */
    check_column(&moved, KERNEL_TEXT);
    kernel_release(&moved);
    kernel_free(schema);
}

static void test_refusals(void) {
    static const struct {
        const char *text;
        int32_t status;
    } CASES[] = {
        {"", KERNEL_NOT_A_PAGE},
        {"[]", KERNEL_NOT_A_PAGE},
        {"{}", KERNEL_NOT_A_PAGE},
        {"{\"items\":{}}", KERNEL_NOT_A_PAGE},
        {"{\"items\":[]}x", KERNEL_NOT_JSON},
        {"{\"items\":[]", KERNEL_NOT_JSON},
        {"{\"items\":[{}", KERNEL_NOT_JSON},
        {"{\"items\":[],\"items\":[]}", KERNEL_KEY_TWICE},
        {"{\"\\u0069tems\":[]}", KERNEL_KEY_SPELLING},
        {"{\"items\":[1]}", KERNEL_NOT_AN_OBJECT},
        {"{\"items\":[{\"text\":\"a\",\"text\":\"b\"}]}", KERNEL_KEY_TWICE},
        {"{\"items\":[{\"new\":1,\"new\":1}]}", KERNEL_KEY_TWICE},
        {"{\"items\":[{\"n\\u0065w\":1}]}", KERNEL_KEY_SPELLING},
        {"{\"items\":[{\"\\ud800\":1}]}", KERNEL_KEY_SPELLING},
        {"{\"items\":[{\"n\xC3\xA4w\":1}]}", KERNEL_KEY_SPELLING},
        {"{\"items\":[{\"money\":1e10000}]}", KERNEL_LONG_EXPONENT},
        {"{\"items\":[{\"money\":01}]}", KERNEL_NOT_JSON},
        {"{\"items\":[{\"text\":\"\xFF\"}]}", KERNEL_NOT_JSON},
        {"\xEF\xBB\xBF{\"items\":[]}", KERNEL_NOT_A_PAGE},
    };
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, 0);
    uint64_t rescues[FIELDS] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    for (size_t place = 0; place < sizeof CASES / sizeof *CASES; place++) {
        struct kernel_page page = {.rescues = rescues, .strangers = strangers};
        const char *text = CASES[place].text;
        CHECK(decode(schema, text, strlen(text), &page, kernel_decode_page) == CASES[place].status);
        CHECK(!page.array.release && page.stopped_at <= strlen(text));
    }
    struct kernel_page page = {.rescues = rescues, .strangers = strangers};
    CHECK(kernel_decode_page(schema, (const uint8_t *)"", KERNEL_MAX_BYTES + 1, &page) ==
          KERNEL_TOO_LARGE);
    kernel_free(schema);
}

/* Decode so many empty rows, each of them `length` bytes long: as a page, or as lines. */
static int32_t decode_empty_rows(size_t rows, size_t length, bool as_page) {
    static const char START[] = "{\"items\":[";
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, 1, 0);
    uint64_t rescues[1] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    struct kernel_page page = {.rescues = rescues, .strangers = strangers};
    size_t start = as_page ? sizeof START - 1 : 0, size = start + rows * length + 1;
    char *text = malloc(size + 1);
    CHECK(text);
    memset(text, ' ', size);
    memcpy(text, START, start);
    for (size_t row = 0; row < rows; row++) {
        char *at = text + start + row * length;
        memcpy(at, "{}", 2);
        at[length - 1] = as_page ? ',' : '\n';
    }
    if (as_page)
        memcpy(text + size - 2, "]}", 2); /* in place of the last comma */
    int32_t status =
        decode(schema, text, size, &page, as_page ? kernel_decode_page : kernel_decode_lines);
    CHECK(status != KERNEL_OK || page.rows == rows);
    kernel_release(&page.array);
    free(text);
    kernel_free(schema);
    return status;
}

static void test_rows_are_bounded_however_long_they_are(void) {
    for (size_t length = 3; length <= 17; length += 14)
        for (int as_page = 0; as_page < 2; as_page++) {
            CHECK(decode_empty_rows(KERNEL_MAX_ROWS, length, as_page) == KERNEL_OK);
            CHECK(decode_empty_rows(KERNEL_MAX_ROWS + 1, length, as_page) == KERNEL_TOO_LARGE);
        }
}

static void test_lines(void) {
    static const char LINES[] = ROW "\r\n\n \t\n" ODD_ROW;
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, 0);
    uint64_t rescues[FIELDS] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    struct kernel_page page = {.rescues = rescues, .strangers = strangers};
    CHECK(decode(schema, LINES, sizeof LINES - 1, &page, kernel_decode_lines) == KERNEL_OK);
    CHECK(page.rows == 2);
    check_rows(&page, KINDS, FIELDS);
    kernel_release(&page.array);
    static const char *const WRONG[] = {"{}{}", "{},", "{\n}", "{} {}", "[]", "{\"text\":\"\n\"}"};
    for (size_t place = 0; place < sizeof WRONG / sizeof *WRONG; place++) {
        CHECK(decode(schema, WRONG[place], strlen(WRONG[place]), &page, kernel_decode_lines));
        CHECK(!page.array.release);
    }
    kernel_free(schema);
}

static void test_a_text_cut_anywhere_is_refused(void) {
    static const char PAGE[] = "{\"items\":[" ROW "," ODD_ROW "]}";
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, 0);
    uint64_t rescues[FIELDS];
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    for (size_t length = 0; length < sizeof PAGE - 1; length++) {
        struct kernel_page page = {.rescues = rescues, .strangers = strangers};
        CHECK(decode(schema, PAGE, length, &page, kernel_decode_page) != KERNEL_OK);
        CHECK(!page.array.release);
    }
    kernel_free(schema);
}

/* Do a call with a schema of so many fields, and fail each request for memory in turn: nothing
 * leaks, and the status says so. */
static void refuse_memory(kernel_call call, const char *text, int32_t fields) {
    uint64_t rescues[FIELDS] = {0};
    struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
    long before = heap_live;
    bool is_done = false;
    for (long requests = 0; !is_done; requests++) {
        struct kernel_page page = {.rescues = rescues, .strangers = strangers};
        heap_refused = 0;
        heap_left = requests;
        struct kernel_schema *schema = kernel_compile(NAMES, KINDS, fields, 0);
        int32_t status = schema ? call(schema, (const uint8_t *)text, strlen(text), &page)
                                : KERNEL_NO_MEMORY;
        heap_left = -1;
        is_done = !heap_refused;
        CHECK(status == (is_done ? KERNEL_OK : KERNEL_NO_MEMORY));
        if (page.array.release && fields)
            check_rows(&page, KINDS, fields);
        kernel_release(&page.array);
        kernel_free(schema);
        CHECK(heap_live == before && requests < 1000000);
    }
}

static int32_t find_items(const struct kernel_schema *schema, const uint8_t *text, uint64_t length,
                          struct kernel_page *page) {
    (void)schema;
    return kernel_find_items(text, length, page);
}

static void test_every_refusal_of_memory_is_survived(void) {
    static const char PAGE[] = "{\"items\":[" ROW "," ODD_ROW "," ROW "]}";
    refuse_memory(kernel_decode_page, PAGE, FIELDS);
    refuse_memory(kernel_decode_page, PAGE, 0); /* each item as one JSON text */
    refuse_memory(kernel_decode_lines, ROW "\n" ODD_ROW, FIELDS);
    refuse_memory(find_items, PAGE, FIELDS);
}

/* ---- threads ---- */

static void *decode_again_and_again(void *argument) {
    static const char PAGE[] = "{\"items\":[" ROW "," ODD_ROW "]}";
    const struct kernel_schema *schema = argument;
    for (int round = 0; round < 200; round++) {
        uint64_t rescues[FIELDS] = {0};
        struct kernel_stranger strangers[KERNEL_MAX_STRANGERS];
        struct kernel_page page = {.rescues = rescues, .strangers = strangers};
        CHECK(kernel_decode_page(schema, (const uint8_t *)PAGE, sizeof PAGE - 1, &page) ==
              KERNEL_OK);
        check_rows(&page, KINDS, FIELDS);
        kernel_release(&page.array);
    }
    return NULL;
}

static void test_one_schema_serves_many_threads(void) {
    struct kernel_schema *schema = kernel_compile(NAMES, KINDS, FIELDS, 0);
    pthread_t threads[4];
    for (int place = 0; place < 4; place++)
        CHECK(!pthread_create(&threads[place], NULL, decode_again_and_again, schema));
    for (int place = 0; place < 4; place++)
        CHECK(!pthread_join(threads[place], NULL));
    kernel_free(schema);
}

/* ---- finding ---- */

static bool has(const char *text, const char *sought) {
    size_t length = strlen(text), sought_length = strlen(sought);
    uint8_t *copy = exact_copy(text, length), *other = exact_copy(sought, sought_length);
    int32_t found = kernel_has(copy, length, other, sought_length);
    free(copy);
    free(other);
    return found;
}

static bool has_escape(const char *text) {
    uint8_t *copy = exact_copy(text, strlen(text));
    int32_t found = kernel_has_escape(copy, strlen(text));
    free(copy);
    return found;
}

static void test_a_text_is_found_at_every_place(void) {
    char text[80], sought[40];
    for (size_t length = 1; length < sizeof text; length++)
        for (size_t size = 1; size <= length && size < sizeof sought; size++)
            for (size_t place = 0; place + size <= length; place += 1 + place / 20) {
                memset(text, 'a', length);
                text[length] = 0;
                memset(sought, 'a', size);
                sought[size] = 0;
                CHECK(has(text, sought));
                sought[size / 2] = 'b';
                CHECK(!has(text, sought));
                text[place + size / 2] = 'b';
                CHECK(has(text, sought));
            }
    CHECK(has("", "") && has("a", "") && !has("", "a") && !has("ab", "abc"));
}

static void test_escapes_that_need_not_be_are_found(void) {
    char escape[16];
    for (unsigned byte = 0; byte < 256; byte++) {
        bool plain = byte < 128 && byte && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                  "abcdefghijklmnopqrstuvwxyz0123456789-_%",
                                                  (int)byte);
        const char *const FORMS[] = {"%%%02x", "%%%02X", "\\u00%02x", "x\\u00%02Xy",
                                     "\\\\u00%02x"};
        for (size_t form = 0; form < sizeof FORMS / sizeof *FORMS; form++) {
            snprintf(escape, sizeof escape, FORMS[form], byte);
            CHECK(has_escape(escape) == plain);
        }
    }
    CHECK(!has_escape("") && !has_escape("%") && !has_escape("%4") && !has_escape("\\u004"));
    CHECK(!has_escape("\\u0141") && !has_escape("% 41") && !has_escape("\\U0041"));
    CHECK(has_escape("% 41 \\ %%41"));
}

int main(void) {
    test_decimals_have_24_places();
    test_integers_have_64_bits();
    test_numbers_are_spelled_as_json_asks();
    test_dates();
    test_values_are_copied_with_few_escapes();
    test_what_is_not_json_is_refused();
    test_depth_is_bounded();
    test_every_place_of_a_quote_in_a_block_is_found();
    test_schemas();
    test_each_status_and_kind_has_its_words();
    test_a_text_is_found_at_every_place();
    test_escapes_that_need_not_be_are_found();
    test_nulls();
    test_a_page();
    test_refusals();
    test_rows_are_bounded_however_long_they_are();
    test_lines();
    test_a_text_cut_anywhere_is_refused();
    test_every_refusal_of_memory_is_survived();
    CHECK(heap_live == 0);
    test_one_schema_serves_many_threads();
    puts("all passed");
    return 0;
}
