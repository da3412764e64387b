/* Finding things in a text that is not decoded: another text, and escapes. */
#include <string.h>

#include "kernel.h"
#include "scan.h"

int32_t kernel_has(const uint8_t *text, uint64_t length, const uint8_t *sought,
                   uint64_t sought_length) {
    if (!sought_length || sought_length > length)
        return sought_length == 0;
    const uint8_t *at = text, *end = text + (length - sought_length + 1);
    size_t last = (size_t)sought_length - 1;
    for (; end - at >= BLOCK; at += BLOCK) {
        uint64_t mask = equal_in_blocks(at, sought[0], at + last, sought[last]);
        for (; mask; mask &= mask - 1) {
            const uint8_t *found = at + (unsigned)__builtin_ctzll(mask) / MASK_BITS;
            if (memcmp(found, sought, (size_t)sought_length) == 0)
                return 1;
        }
    }
    for (; at < end; at++)
        if (memcmp(at, sought, (size_t)sought_length) == 0)
            return 1;
    return 0;
}

/* ---- escapes ---- */

/* Whether two hexadecimal digits name a letter, a digit, `-`, `_` or `%`, which need no escape. */
static bool names_plain(const uint8_t *digits) {
    int high = hex_digit(digits[0]), low = hex_digit(digits[1]);
    if (high < 0 || low < 0)
        return false;
    int byte = high << 4 | low, letter = byte | 0x20;
    return (letter >= 'a' && letter <= 'z' && byte >= 'A') || is_digit((uint8_t)byte) ||
           byte == '-' || byte == '_' || byte == '%';
}

/* Whether two digits that name such a character follow `mark` somewhere. */
static bool has_escape(const uint8_t *text, size_t length, const char *mark, size_t mark_length) {
    const uint8_t *at = text, *end = text + length;
    while (at < end && (at = memchr(at, mark[0], (size_t)(end - at)))) {
        if ((size_t)(end - at) < mark_length + 2)
            return false;
        if (memcmp(at, mark, mark_length) == 0 && names_plain(at + mark_length))
            return true;
        at++;
    }
    return false;
}

int32_t kernel_has_escape(const uint8_t *text, uint64_t length) {
    return has_escape(text, (size_t)length, "\\u00", 4) || has_escape(text, (size_t)length, "%", 1);
}
