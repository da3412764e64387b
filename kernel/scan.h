/* Looking at text: a cursor that cannot leave it, and 16 bytes at once where the machine can. */
#ifndef SCAN_H
#define SCAN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* A place in the text. `at` never passes `end`. */
struct cursor {
    const uint8_t *at;
    const uint8_t *end;
};

/* Bytes that someone else owns. */
struct span {
    const uint8_t *start;
    size_t length;
};

/* Return the next byte, or NUL at the end: NUL is legal nowhere in JSON. */
static inline uint8_t next_byte(const struct cursor *in) { return in->at < in->end ? *in->at : 0; }

static inline bool take(struct cursor *in, uint8_t byte) {
    if (next_byte(in) != byte)
        return false;
    in->at++;
    return true;
}

static inline bool is_space(uint8_t byte) {
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static inline void skip_space(struct cursor *in) {
    while (in->at < in->end && is_space(*in->at))
        in->at++;
}

static inline bool is_digit(uint8_t byte) { return (uint8_t)(byte - '0') < 10; }

/* Return what a hexadecimal digit is worth, or -1. */
static inline int hex_digit(uint8_t byte) {
    if (is_digit(byte))
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* Whether a byte may stand in a JSON string and mean itself. */
static inline bool is_plain(uint8_t byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

#define BLOCK 16

/* Copy 16 bytes, and return how many of them are plain up to the first that is not. */
static inline unsigned copy_block(uint8_t *to, const uint8_t *from) {
#if defined(__SSE2__)
    __m128i block = _mm_loadu_si128((const __m128i *)from);
    _mm_storeu_si128((__m128i *)to, block);
    /* As signed bytes, what is below a space are control characters and everything from 0x80. */
    __m128i odd = _mm_cmplt_epi8(block, _mm_set1_epi8(0x20));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(block, _mm_set1_epi8('"')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(block, _mm_set1_epi8('\\')));
    unsigned mask = (unsigned)_mm_movemask_epi8(odd);
    return mask ? (unsigned)__builtin_ctz(mask) : BLOCK;
#elif defined(__aarch64__) && defined(__ARM_NEON)
    uint8x16_t block = vld1q_u8(from);
    vst1q_u8(to, block);
    uint8x16_t odd = vcltq_s8(vreinterpretq_s8_u8(block), vdupq_n_s8(0x20));
    odd = vorrq_u8(odd, vceqq_u8(block, vdupq_n_u8('"')));
    odd = vorrq_u8(odd, vceqq_u8(block, vdupq_n_u8('\\')));
    /* Four bits for each byte. */
    uint64_t mask =
        vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(odd), 4)), 0);
    return mask ? (unsigned)__builtin_ctzll(mask) / 4 : BLOCK;
#else
    memcpy(to, from, BLOCK);
    unsigned plain = 0;
    while (plain < BLOCK && is_plain(from[plain]))
        plain++;
    return plain;
#endif
}

/* How many bits of a mask stand for each byte of a block. */
#if !defined(__SSE2__) && defined(__aarch64__) && defined(__ARM_NEON)
#define MASK_BITS 4
#else
#define MASK_BITS 1
#endif

/* Return a mask with one bit for each place where `one` has the first byte and `other` the last. */
static inline uint64_t equal_in_blocks(const uint8_t *one, uint8_t first, const uint8_t *other,
                                       uint8_t last) {
#if defined(__SSE2__)
    __m128i firsts = _mm_loadu_si128((const __m128i *)one);
    __m128i lasts = _mm_loadu_si128((const __m128i *)other);
    firsts = _mm_cmpeq_epi8(firsts, _mm_set1_epi8((char)first));
    lasts = _mm_cmpeq_epi8(lasts, _mm_set1_epi8((char)last));
    return (uint64_t)(unsigned)_mm_movemask_epi8(_mm_and_si128(firsts, lasts));
#elif defined(__aarch64__) && defined(__ARM_NEON)
    uint8x16_t firsts = vceqq_u8(vld1q_u8(one), vdupq_n_u8(first));
    uint8x16_t both = vandq_u8(firsts, vceqq_u8(vld1q_u8(other), vdupq_n_u8(last)));
    uint64_t mask =
        vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(both), 4)), 0);
    return mask & 0x1111111111111111u;
#else
    uint64_t mask = 0;
    for (unsigned place = 0; place < BLOCK; place++)
        mask |= (uint64_t)(one[place] == first && other[place] == last) << place;
    return mask;
#endif
}

/* Pass all plain bytes. */
static inline void skip_plain(struct cursor *in) {
    uint8_t unused[BLOCK];
    const uint8_t *at = in->at;
    while (in->end - at >= BLOCK) {
        unsigned plain = copy_block(unused, at);
        at += plain;
        if (plain < BLOCK) {
            in->at = at;
            return;
        }
    }
    while (at < in->end && is_plain(*at))
        at++;
    in->at = at;
}

static inline uint64_t eight_bytes(const uint8_t *from) {
    uint64_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

static inline uint32_t four_bytes(const uint8_t *from) {
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

/* Compare short texts without a call: two loads that overlap cover 4 to 16 bytes, four 32. */
static inline bool is_same(const uint8_t *one, const uint8_t *other, size_t length) {
    if (length < 4 || length > 32)
        return memcmp(one, other, length) == 0;
    if (length < 8)
        return four_bytes(one) == four_bytes(other) &&
               four_bytes(one + length - 4) == four_bytes(other + length - 4);
    uint64_t differ = eight_bytes(one) ^ eight_bytes(other);
    differ |= eight_bytes(one + length - 8) ^ eight_bytes(other + length - 8);
    if (length > 16) {
        differ |= eight_bytes(one + 8) ^ eight_bytes(other + 8);
        differ |= eight_bytes(one + length - 16) ^ eight_bytes(other + length - 16);
    }
    return differ == 0;
}

#endif
