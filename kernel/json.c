#include "json.h"

/* Room for one block, or for the longest thing that an escape or a character becomes. */
#define STEP BLOCK

bool take_word(struct cursor *in, const char *word, size_t length) {
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, word, length) != 0)
        return false;
    in->at += length;
    return true;
}

/* ---- strings ---- */

/* Return how many bytes the UTF-8 character at the cursor has; 0 if it is not one. */
static unsigned utf8_length(const struct cursor *in) {
    const uint8_t *at = in->at;
    size_t left = (size_t)(in->end - at);
    uint8_t low = 0x80, high = 0xBF; /* what the second byte may be */
    unsigned length;
    if (at[0] >= 0xC2 && at[0] <= 0xDF)
        length = 2;
    else if (at[0] >= 0xE0 && at[0] <= 0xEF)
        length = 3;
    else if (at[0] >= 0xF0 && at[0] <= 0xF4)
        length = 4;
    else
        return 0;
    if (at[0] == 0xE0)
        low = 0xA0; /* else it has a shorter spelling */
    if (at[0] == 0xED)
        high = 0x9F; /* else it is a surrogate */
    if (at[0] == 0xF0)
        low = 0x90;
    if (at[0] == 0xF4)
        high = 0x8F; /* else it is beyond U+10FFFF */
    if (left < length || at[1] < low || at[1] > high)
        return 0;
    for (unsigned place = 2; place < length; place++)
        if ((at[place] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* Write a character as UTF-8, at most 4 bytes, and return how many. */
static unsigned write_utf8(uint8_t *to, uint32_t character) {
    if (character < 0x80) {
        to[0] = (uint8_t)character;
        return 1;
    }
    if (character < 0x800) {
        to[0] = (uint8_t)(0xC0 | character >> 6);
        to[1] = (uint8_t)(0x80 | (character & 0x3F));
        return 2;
    }
    if (character < 0x10000) {
        to[0] = (uint8_t)(0xE0 | character >> 12);
        to[1] = (uint8_t)(0x80 | (character >> 6 & 0x3F));
        to[2] = (uint8_t)(0x80 | (character & 0x3F));
        return 3;
    }
    to[0] = (uint8_t)(0xF0 | character >> 18);
    to[1] = (uint8_t)(0x80 | (character >> 12 & 0x3F));
    to[2] = (uint8_t)(0x80 | (character >> 6 & 0x3F));
    to[3] = (uint8_t)(0x80 | (character & 0x3F));
    return 4;
}

/* Write `\u` and four digits. */
static unsigned write_escape(uint8_t *to, uint32_t unit) {
    static const char HEX[] = "0123456789abcdef";
    to[0] = '\\';
    to[1] = 'u';
    for (unsigned place = 0; place < 4; place++)
        to[2 + place] = (uint8_t)HEX[unit >> (12 - 4 * place) & 0xF];
    return 6;
}

/* Write a character as it stands in a JSON string, at most 6 bytes. */
static unsigned write_json(uint8_t *to, uint32_t character) {
    uint8_t letter = 0;
    switch (character) {
    case '"':
    case '\\':
        letter = (uint8_t)character;
        break;
    case '\b':
        letter = 'b';
        break;
    case '\f':
        letter = 'f';
        break;
    case '\n':
        letter = 'n';
        break;
    case '\r':
        letter = 'r';
        break;
    case '\t':
        letter = 't';
        break;
    default:
        return character < 0x20 ? write_escape(to, character) : write_utf8(to, character);
    }
    to[0] = '\\';
    to[1] = letter;
    return 2;
}

static bool is_surrogate(uint32_t unit) { return unit >= 0xD800 && unit <= 0xDFFF; }

/* Read the four digits behind `\u`. */
static bool read_unit(struct cursor *in, uint32_t *unit) {
    if (in->end - in->at < 4)
        return false;
    *unit = 0;
    for (unsigned place = 0; place < 4; place++) {
        int digit = hex_digit(in->at[place]);
        if (digit < 0)
            return false;
        *unit = *unit << 4 | (uint32_t)digit;
    }
    in->at += 4;
    return true;
}

/* Read the character of `\uXXXX`, both halves of a pair; one half alone is a surrogate. */
static bool read_code_point(struct cursor *in, uint32_t *character) {
    if (!read_unit(in, character))
        return false;
    if (*character < 0xD800 || *character > 0xDBFF)
        return true;
    struct cursor ahead = *in;
    uint32_t low;
    if (!take(&ahead, '\\') || !take(&ahead, 'u') || !read_unit(&ahead, &low))
        return true; /* what follows is read, and refused if need be, on its own */
    if (low < 0xDC00 || low > 0xDFFF)
        return true;
    *character = 0x10000 + ((*character - 0xD800) << 10 | (low - 0xDC00));
    *in = ahead;
    return true;
}

/* Read an escape from its backslash on. */
static bool read_escape(struct cursor *in, uint32_t *character) {
    in->at++;
    uint8_t letter = next_byte(in);
    if (!letter)
        return false;
    in->at++;
    switch (letter) {
    case '"':
    case '\\':
    case '/':
        *character = letter;
        return true;
    case 'b':
        *character = '\b';
        return true;
    case 'f':
        *character = '\f';
        return true;
    case 'n':
        *character = '\n';
        return true;
    case 'r':
        *character = '\r';
        return true;
    case 't':
        *character = '\t';
        return true;
    case 'u':
        return read_code_point(in, character);
    default:
        return false;
    }
}

/* Copy one escape, for which there is room. */
static bool copy_escape(struct cursor *in, struct bytes *to, enum spelling spelling,
                        bool *is_lone) {
    uint32_t character;
    if (!read_escape(in, &character))
        return false;
    uint8_t *end = to->start + to->length;
    if (is_surrogate(character)) {
        *is_lone = true;
        if (spelling == AS_JSON)
            to->length += write_escape(end, character);
    } else {
        to->length += spelling == AS_JSON ? write_json(end, character) : write_utf8(end, character);
    }
    return true;
}

/* Copy the plain bytes at the cursor; there is room for a block behind them. */
static bool copy_plain(struct cursor *in, struct bytes *to) {
    const uint8_t *at = in->at;
    for (;;) {
        if (!bytes_ensure(to, STEP))
            return false;
        uint8_t *end = to->start + to->length;
        if (in->end - at < BLOCK)
            break;
        unsigned plain = copy_block(end, at);
        at += plain;
        to->length += plain;
        if (plain < BLOCK) {
            in->at = at;
            return bytes_ensure(to, STEP);
        }
    }
    /* Less than a block is left, and there is room for one. */
    while (at < in->end && is_plain(*at))
        to->start[to->length++] = *at++;
    in->at = at;
    return bytes_ensure(to, STEP);
}

enum kernel_status copy_string(struct cursor *in, struct bytes *to, enum spelling spelling,
                               bool *is_lone) {
    for (;;) {
        if (!copy_plain(in, to))
            return KERNEL_NO_MEMORY;
        uint8_t byte = next_byte(in);
        if (byte == '"') {
            in->at++;
            return KERNEL_OK;
        }
        if (byte == '\\') {
            if (!copy_escape(in, to, spelling, is_lone))
                return KERNEL_NOT_JSON;
            continue;
        }
        unsigned length = byte < 0x80 ? 0 : utf8_length(in);
        if (!length)
            return KERNEL_NOT_JSON; /* a control character, the end, or no UTF-8 */
        memcpy(to->start + to->length, in->at, length);
        to->length += length;
        in->at += length;
    }
}

/* Pass a string without escapes, and stop at its closing quote; or at its first escape. */
static bool skip_unescaped(struct cursor *in) {
    for (;;) {
        skip_plain(in);
        uint8_t byte = next_byte(in);
        if (byte == '"' || byte == '\\')
            return true;
        unsigned length = byte < 0x80 ? 0 : utf8_length(in);
        if (!length)
            return false;
        in->at += length;
    }
}

enum kernel_status read_string(struct cursor *in, struct bytes *scratch, struct span *text,
                               bool *is_lone) {
    const uint8_t *start = in->at;
    *is_lone = false;
    if (!skip_unescaped(in))
        return KERNEL_NOT_JSON;
    if (*in->at == '"') {
        *text = (struct span){start, (size_t)(in->at - start)};
        in->at++;
        return KERNEL_OK;
    }
    in->at = start;
    scratch->length = 0;
    enum kernel_status status = copy_string(in, scratch, AS_TEXT, is_lone);
    *text = (struct span){scratch->start, scratch->length};
    return status;
}

static enum kernel_status skip_string(struct cursor *in) {
    for (;;) {
        if (!skip_unescaped(in))
            return KERNEL_NOT_JSON;
        uint32_t unused;
        if (take(in, '"'))
            return KERNEL_OK;
        if (!read_escape(in, &unused))
            return KERNEL_NOT_JSON;
    }
}

/* ---- numbers ---- */

/* Pass digits and add them to those before; what overflows is not used. */
static struct span read_digits(struct cursor *in, uint64_t *digits) {
    const uint8_t *at = in->at;
    uint64_t sum = *digits;
    while (at < in->end && is_digit(*at))
        sum = sum * 10 + (uint64_t)(*at++ - '0');
    struct span found = {in->at, (size_t)(at - in->at)};
    *digits = sum;
    in->at = at;
    return found;
}

static bool read_exponent(struct cursor *in, struct number *number) {
    in->at++;
    bool is_negative = next_byte(in) == '-';
    if (is_negative || next_byte(in) == '+')
        in->at++;
    if (!is_digit(next_byte(in)))
        return false;
    int32_t exponent = 0;
    for (; is_digit(next_byte(in)); in->at++)
        if (exponent <= KERNEL_MAX_EXPONENT)
            exponent = exponent * 10 + (*in->at - '0');
    number->has_exponent = true;
    number->has_long_exponent = exponent > KERNEL_MAX_EXPONENT;
    number->exponent = is_negative ? -exponent : exponent;
    return true;
}

bool read_number(struct cursor *in, struct number *number) {
    *number = (struct number){0};
    number->is_negative = take(in, '-');
    number->whole = read_digits(in, &number->digits);
    if (!number->whole.length || (number->whole.length > 1 && number->whole.start[0] == '0'))
        return false;
    number->fraction = (struct span){in->at, 0};
    if (take(in, '.')) {
        number->fraction = read_digits(in, &number->digits);
        if (!number->fraction.length)
            return false;
    }
    uint8_t byte = next_byte(in);
    return byte == 'e' || byte == 'E' ? read_exponent(in, number) : true;
}

/* ---- values ---- */

/* Which containers are open, the innermost in the lowest bit: 1 for an object, 0 for an array. */
struct nesting {
    uint64_t objects;
    unsigned depth;
};

_Static_assert(KERNEL_MAX_DEPTH < 64, "one bit for each open container");

/* What may come next. */
enum state { VALUE, FIRST_VALUE_OR_END, FIRST_KEY_OR_END, KEY, COMMA_OR_END, COMPLETE };

static bool put(struct bytes *to, uint8_t byte) { return !to || bytes_add_one(to, byte); }

static enum kernel_status read_quoted(struct cursor *in, struct bytes *to) {
    if (!take(in, '"'))
        return KERNEL_NOT_JSON;
    if (!to)
        return skip_string(in);
    bool is_lone;
    if (!bytes_add_one(to, '"'))
        return KERNEL_NO_MEMORY;
    enum kernel_status status = copy_string(in, to, AS_JSON, &is_lone);
    if (status == KERNEL_OK && !bytes_add_one(to, '"'))
        return KERNEL_NO_MEMORY;
    return status;
}

/* Read `true`, `false`, `null` or a number. */
static enum kernel_status read_scalar(struct cursor *in, struct bytes *to) {
    const uint8_t *start = in->at;
    struct number number;
    bool is_value;
    switch (next_byte(in)) {
    case 't':
        is_value = take_word(in, "true", 4);
        break;
    case 'f':
        is_value = take_word(in, "false", 5);
        break;
    case 'n':
        is_value = take_word(in, "null", 4);
        break;
    default:
        is_value = read_number(in, &number);
    }
    if (!is_value)
        return KERNEL_NOT_JSON;
    if (to && !bytes_add(to, start, (size_t)(in->at - start)))
        return KERNEL_NO_MEMORY;
    return KERNEL_OK;
}

static enum state after_value(const struct nesting *open) {
    return open->depth ? COMMA_OR_END : COMPLETE;
}

static enum kernel_status open_container(struct cursor *in, struct bytes *to, unsigned depth,
                                         struct nesting *open, enum state *state) {
    bool is_object = *in->at == '{';
    if (depth + open->depth >= KERNEL_MAX_DEPTH)
        return KERNEL_TOO_DEEP;
    if (!put(to, *in->at++))
        return KERNEL_NO_MEMORY;
    open->objects = open->objects << 1 | is_object;
    open->depth++;
    *state = is_object ? FIRST_KEY_OR_END : FIRST_VALUE_OR_END;
    return KERNEL_OK;
}

static enum kernel_status close_container(struct cursor *in, struct bytes *to, struct nesting *open,
                                          enum state *state) {
    bool is_object = open->objects & 1;
    if (!take(in, is_object ? '}' : ']'))
        return KERNEL_NOT_JSON;
    open->objects >>= 1;
    open->depth--;
    *state = after_value(open);
    return put(to, is_object ? '}' : ']') ? KERNEL_OK : KERNEL_NO_MEMORY;
}

static enum kernel_status read_key(struct cursor *in, struct bytes *to, enum state *state) {
    enum kernel_status status = read_quoted(in, to);
    if (status != KERNEL_OK)
        return status;
    skip_space(in);
    if (!take(in, ':'))
        return KERNEL_NOT_JSON;
    *state = VALUE;
    return put(to, ':') ? KERNEL_OK : KERNEL_NO_MEMORY;
}

static enum kernel_status read_any(struct cursor *in, struct bytes *to, unsigned depth,
                                   struct nesting *open, enum state *state) {
    uint8_t byte = next_byte(in);
    if (byte == '{' || byte == '[')
        return open_container(in, to, depth, open, state);
    *state = after_value(open);
    return byte == '"' ? read_quoted(in, to) : read_scalar(in, to);
}

static enum kernel_status read_comma(struct cursor *in, struct bytes *to, struct nesting *open,
                                     enum state *state) {
    if (next_byte(in) != ',')
        return close_container(in, to, open, state);
    in->at++;
    *state = open->objects & 1 ? KEY : VALUE;
    return put(to, ',') ? KERNEL_OK : KERNEL_NO_MEMORY;
}

enum kernel_status read_value(struct cursor *in, struct bytes *to, unsigned depth) {
    struct nesting open = {0, 0};
    enum state state = VALUE;
    enum kernel_status status = KERNEL_OK;
    while (state != COMPLETE && status == KERNEL_OK) {
        skip_space(in);
        uint8_t byte = next_byte(in);
        switch (state) {
        case FIRST_VALUE_OR_END:
            status = byte == ']' ? close_container(in, to, &open, &state)
                                 : read_any(in, to, depth, &open, &state);
            break;
        case VALUE:
            status = read_any(in, to, depth, &open, &state);
            break;
        case FIRST_KEY_OR_END:
            status =
                byte == '}' ? close_container(in, to, &open, &state) : read_key(in, to, &state);
            break;
        case KEY:
            status = read_key(in, to, &state);
            break;
        case COMMA_OR_END:
            status = read_comma(in, to, &open, &state);
            break;
        case COMPLETE:
            break;
        }
    }
    return status;
}
