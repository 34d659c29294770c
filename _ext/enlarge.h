/* MATLAB's bicubic by a whole factor, row by row: each LR row is spread to HR columns once, then
 * an HR row is a blend of four spread rows. So what needs shuffles is done once per LR row,
 * and what is done for every HR row is straight multiplication.
 *
 * Four of a phase's five LR pixels can have a weight: the first four up to the pixel's middle,
 * the last four from there on (at the middle itself both ends weigh 0).
 */
#ifndef SRT_ENLARGE_H
#define SRT_ENLARGE_H

#include "rows.h"

/* The first of the four LR pixels that phase p of s reads, counted from the first of the five. */
static inline ptrdiff_t srt_first(ptrdiff_t p, ptrdiff_t s) { return 2 * p + 1 > s; }

/* Outer pair plus inner pair: a mirrored image gives the mirrored result, bit for bit. */
#define SRT_BLEND(t, a, b, c, d) (((t)[0] * (a) + (t)[3] * (d)) + ((t)[1] * (b) + (t)[2] * (c)))

/* With s a constant the inner loop unrolls and the stores of s phases become whole vectors. */
#define SRT_SPREAD(s)                                                                               \
    for (ptrdiff_t q = 0; q < n; ++q)                                                               \
        for (ptrdiff_t p = 0; p < (s); ++p) {                                                       \
            const float *x = src + q + srt_first(p, s);                                             \
            dst[(s) * q + p] = SRT_BLEND(taps + 4 * p, x[0], x[1], x[2], x[3]);                     \
        }

/* n LR pixels, of which src has n + 4, to n * s HR pixels. */
SRT_CLONES static void srt_spread(const float *restrict src, float *restrict dst, ptrdiff_t n, ptrdiff_t s,
                                  const float *restrict taps) {
    switch (s) {
        case 2: SRT_SPREAD(2) break;
        case 3: SRT_SPREAD(3) break;
        case 4: SRT_SPREAD(4) break;
        case 8: SRT_SPREAD(8) break;
        default:
            for (ptrdiff_t p = 0; p < s; ++p, taps += 4) {
                const float *x = src + srt_first(p, s);
                for (ptrdiff_t q = 0; q < n; ++q) dst[s * q + p] = SRT_BLEND(taps, x[q], x[q + 1], x[q + 2], x[q + 3]);
            }
    }
}

SRT_CLONES static void srt_blend(const float *restrict a, const float *restrict b, const float *restrict c,
                                 const float *restrict d, const float *restrict t, float *restrict dst,
                                 ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i) dst[i] = SRT_BLEND(t, a[i], b[i], c[i], d[i]);
}

/* The same, and what a network adds to it. */
SRT_CLONES static void srt_blend_add(const float *restrict a, const float *restrict b, const float *restrict c,
                                     const float *restrict d, const float *restrict t, const float *restrict detail,
                                     float *restrict dst, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i) dst[i] = SRT_BLEND(t, a[i], b[i], c[i], d[i]) + detail[i];
}

#endif
