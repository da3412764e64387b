/* What a column holds of a text: numbers that fit it, and points in time. */
#ifndef CONVERT_H
#define CONVERT_H

#include "int128.h"
#include "json.h"

/* Set `*value` to the number as decimal128 with 24 places, or return false if that cannot hold it
 * exactly. */
bool decimal_of(const struct number *number, u128 *value);

/* Set `*value` to the number as an integer of 64 bits, or return false if it is not one. */
bool integer_of(const struct number *number, int64_t *value);

/* Read a text that is a plain number, without an exponent, and nothing else. */
bool number_of_text(struct span text, struct number *number);

/* Read a date as microseconds since 1970 in UTC. `*is_exact` is false where the text says more. */
bool date_of(struct span text, int64_t *microseconds, bool *is_exact);

#endif
