#include "convert.h"

/* ---- numbers: bulkfetch/decoding/columns.py, decimal_of ---- */

#define DECIMAL_PLACES 24
#define DECIMAL_WHOLE_DIGITS 14
#define INTEGER_DIGITS 19
/* So many digits always fit 64 bits. */
#define SHORT_DIGITS 19

static uint8_t digit_at(const struct number *number, size_t place) {
    return place < number->whole.length ? number->whole.start[place]
                                        : number->fraction.start[place - number->whole.length];
}

/* The digits of a number between its first and its last that is not zero. */
struct significant {
    size_t first;
    size_t count;     /* 0: the number is zero */
    int64_t exponent; /* of the last one */
};

static struct significant significant_of(const struct number *number) {
    size_t count = number->whole.length + number->fraction.length, first = 0, last = count;
    while (first < count && digit_at(number, first) == '0')
        first++;
    while (last > first && digit_at(number, last - 1) == '0')
        last--;
    int64_t exponent = (int64_t)number->whole.length - (int64_t)last + number->exponent;
    return (struct significant){first, last - first, exponent};
}

/* Return the digits as an integer; there are at most 38. */
static u128 sum_digits(const struct number *number, const struct significant *digits) {
    u128 sum = 0;
    for (size_t place = digits->first; place < digits->first + digits->count; place++)
        sum = sum * 10 + (unsigned)(digit_at(number, place) - '0');
    return sum;
}

static bool long_decimal_of(const struct number *number, u128 *value) {
    struct significant digits = significant_of(number);
    *value = 0;
    if (!digits.count)
        return true;
    if (digits.exponent < -DECIMAL_PLACES ||
        digits.exponent + (int64_t)digits.count > DECIMAL_WHOLE_DIGITS)
        return false;
    *value =
        sum_digits(number, &digits) * power_of_ten((unsigned)(digits.exponent + DECIMAL_PLACES));
    return true;
}

static bool is_short(const struct number *number) {
    return !number->has_exponent && number->whole.length + number->fraction.length <= SHORT_DIGITS;
}

bool decimal_of(const struct number *number, u128 *value) {
    if (is_short(number)) {
        if (number->whole.length > DECIMAL_WHOLE_DIGITS)
            return false;
        unsigned places = DECIMAL_PLACES - (unsigned)number->fraction.length;
        *value = number->digits * power_of_ten(places);
    } else if (!long_decimal_of(number, value)) {
        return false;
    }
    if (number->is_negative)
        *value = -*value; /* two's complement, as Arrow has it */
    return true;
}

bool integer_of(const struct number *number, int64_t *value) {
    uint64_t magnitude = number->digits;
    if (!is_short(number) || number->fraction.length) {
        struct significant digits = significant_of(number);
        if (digits.count &&
            (digits.exponent < 0 || digits.exponent + (int64_t)digits.count > INTEGER_DIGITS))
            return false;
        magnitude =
            !digits.count
                ? 0
                : (uint64_t)(sum_digits(number, &digits) * power_of_ten((unsigned)digits.exponent));
    }
    if (magnitude > (uint64_t)INT64_MAX + number->is_negative)
        return false;
    /* The bits of the negative number: -2^63 has no positive one. */
    uint64_t bits = number->is_negative ? 0 - magnitude : magnitude;
    memcpy(value, &bits, sizeof bits);
    return true;
}

bool number_of_text(struct span text, struct number *number) {
    struct cursor in = {text.start, text.start + text.length};
    return read_number(&in, number) && in.at == in.end && !number->has_exponent;
}

/* ---- dates: bulkfetch/decoding/dates.py ---- */

#define DAY 10           /* YYYY-MM-DD */
#define DATE_AND_TIME 19 /* YYYY-MM-DDThh:mm:ss */
#define OFFSET 6         /* +hh:mm */
#define DAY_S 86400
#define SECOND_US 1000000
#define FIRST_US (-62135596800000000) /* 0001-01-01T00:00:00Z */
#define LAST_US 253402300799999999    /* 9999-12-31T23:59:59.999999Z */

static bool read_two(const uint8_t *at, int *value) {
    *value = (at[0] - '0') * 10 + (at[1] - '0');
    return is_digit(at[0]) && is_digit(at[1]);
}

static bool is_leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

static int days_in(int year, int month) {
    static const uint8_t DAYS[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return DAYS[month - 1] + (month == 2 && is_leap(year));
}

/* Return the days from 1970-01-01 to a day of the years 1 to 9999. */
static int64_t days_since_1970(int year, int month, int day) {
    static const int BEFORE[12] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    enum { DAYS_TO_1970 = 719163 }; /* the number of 1970-01-01, where that of 0001-01-01 is 1 */
    int past = year - 1;
    int64_t ordinal = (int64_t)past * 365 + past / 4 - past / 100 + past / 400;
    return ordinal + BEFORE[month - 1] + (month > 2 && is_leap(year)) + day - DAYS_TO_1970;
}

static bool read_day(const uint8_t *at, int64_t *seconds) {
    int century, years, month, day;
    if (at[4] != '-' || at[7] != '-')
        return false;
    if (!read_two(at, &century) || !read_two(at + 2, &years) || !read_two(at + 5, &month) ||
        !read_two(at + 8, &day))
        return false;
    int year = century * 100 + years;
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_in(year, month))
        return false;
    *seconds = days_since_1970(year, month, day) * DAY_S;
    return true;
}

/* Read `Thh:mm:ss`, and add it. */
static bool read_time(const uint8_t *at, int64_t *seconds) {
    int hour, minute, second;
    if (at[0] != 'T' || at[3] != ':' || at[6] != ':')
        return false;
    if (!read_two(at + 1, &hour) || !read_two(at + 4, &minute) || !read_two(at + 7, &second))
        return false;
    if (hour > 23 || minute > 59 || second > 59)
        return false;
    *seconds += hour * 3600 + minute * 60 + second;
    return true;
}

/* Read the digits behind a point: six count, more are exact if they are zeros. */
static bool read_fraction(struct cursor *in, int64_t *microseconds, bool *is_exact) {
    int places = 0;
    int64_t sum = 0;
    for (; is_digit(next_byte(in)); in->at++) {
        if (places < 6) {
            sum = sum * 10 + (*in->at - '0');
            places++;
        } else if (*in->at != '0') {
            *is_exact = false;
        }
    }
    if (!places)
        return false;
    for (; places < 6; places++)
        sum *= 10;
    *microseconds += sum;
    return true;
}

static bool read_offset(struct cursor *in, int64_t *microseconds, bool *is_exact) {
    int hours, minutes;
    if (take(in, 'Z'))
        return true;
    if (in->end - in->at != OFFSET || (in->at[0] != '+' && in->at[0] != '-') || in->at[3] != ':')
        return false;
    if (!read_two(in->at + 1, &hours) || !read_two(in->at + 4, &minutes))
        return false;
    if (hours > 23 || minutes > 59)
        return false;
    bool is_behind = in->at[0] == '-';
    int64_t offset = (int64_t)(hours * 60 + minutes) * 60 * SECOND_US;
    *microseconds += is_behind ? offset : -offset;
    if (is_behind || offset)
        *is_exact = false; /* the local time is gone */
    in->at += OFFSET;
    return true;
}

bool date_of(struct span text, int64_t *microseconds, bool *is_exact) {
    int64_t seconds;
    *is_exact = true;
    if (text.length < DAY || !read_day(text.start, &seconds))
        return false;
    if (text.length == DAY) {
        *microseconds = seconds * SECOND_US;
        return true;
    }
    if (text.length < DATE_AND_TIME || !read_time(text.start + DAY, &seconds))
        return false;
    struct cursor in = {text.start + DATE_AND_TIME, text.start + text.length};
    *microseconds = seconds * SECOND_US;
    if (take(&in, '.') && !read_fraction(&in, microseconds, is_exact))
        return false;
    if (in.at < in.end && !read_offset(&in, microseconds, is_exact))
        return false;
    return in.at == in.end && *microseconds >= FIRST_US && *microseconds <= LAST_US;
}
