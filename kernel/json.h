/* JSON text: strings, numbers and whole values, checked as strictly as RFC 8259 asks. */
#ifndef JSON_H
#define JSON_H

#include "bytes.h"
#include "kernel.h"
#include "scan.h"

/* How a string is copied: as the text that it means, or as JSON with as few escapes as possible. */
enum spelling { AS_TEXT, AS_JSON };

/* Copy a string whose opening quote is passed, up to behind its closing quote.
 *
 * As text, a lone surrogate, which UTF-8 cannot hold, sets `*is_lone` and is left out. As JSON it
 * stays an escape.
 */
enum kernel_status copy_string(struct cursor *in, struct bytes *to, enum spelling spelling,
                               bool *is_lone);

/* Read a string whose opening quote is passed. Without escapes the text stays where it is, else it
 * is made in `scratch`. */
enum kernel_status read_string(struct cursor *in, struct bytes *scratch, struct span *text,
                               bool *is_lone);

/* The parts of a number as it is written. */
struct number {
    bool is_negative;
    struct span whole;
    struct span fraction;
    /* Up to 19 digits of both, where there are no more and no exponent. */
    uint64_t digits;
    bool has_exponent;
    bool has_long_exponent;
    int32_t exponent;
};

/* Read a JSON number. */
bool read_number(struct cursor *in, struct number *number);

/* Read any value. With `to` it is copied as compact JSON: numbers as they are written, text with as
 * few escapes as possible. `depth` containers are open around it. */
enum kernel_status read_value(struct cursor *in, struct bytes *to, unsigned depth);

/* Pass `true`, `false` or `null`. */
bool take_word(struct cursor *in, const char *word, size_t length);

#endif
