/* 128-bit integers, which Arrow's decimals are: the one header that needs the compiler to have
 * them. */
#ifndef INT128_H
#define INT128_H

#include <stdint.h>

#if !defined(__SIZEOF_INT128__)
#error "the kernel needs a compiler with 128-bit integers; bulkfetch works without the kernel"
#endif

__extension__ typedef unsigned __int128 u128;

/* Return 10 to the power of `exponent`, which is at most 38. */
static inline u128 power_of_ten(unsigned exponent) {
    static const uint64_t POWERS[20] = {1ull,
                                        10ull,
                                        100ull,
                                        1000ull,
                                        10000ull,
                                        100000ull,
                                        1000000ull,
                                        10000000ull,
                                        100000000ull,
                                        1000000000ull,
                                        10000000000ull,
                                        100000000000ull,
                                        1000000000000ull,
                                        10000000000000ull,
                                        100000000000000ull,
                                        1000000000000000ull,
                                        10000000000000000ull,
                                        100000000000000000ull,
                                        1000000000000000000ull,
                                        10000000000000000000ull};
    return exponent < 20 ? POWERS[exponent] : (u128)POWERS[19] * POWERS[exponent - 19];
}

#endif
