/* MATLAB's bicubic by an integer factor, row by row. Each LR row is enlarged to HR columns once ("spread"),
 * and each HR row is a blend of four spread rows. Shuffles are thus needed once per LR row only, and the work
 * per HR row is plain multiplication.
 *
 * Four of the five weights of a phase can be nonzero: the first four up to the middle of the LR pixel, the last
 * four after it. At the middle both outer weights are 0.
 */
#ifndef SRT_ENLARGE_H
#define SRT_ENLARGE_H

#include "rows.h"

/* Index, among the five LR pixels, of the first of the four that phase p of s reads. */
static inline ptrdiff_t srt_first(ptrdiff_t p, ptrdiff_t s) { return 2 * p + 1 > s; }

/* The outer pair plus the inner pair: a mirrored image gives the mirrored result, bit for bit. */
#define SRT_BLEND(t, a, b, c, d) (((t)[0] * (a) + (t)[3] * (d)) + ((t)[1] * (b) + (t)[2] * (c)))

/* With a constant s the inner loop is unrolled, and the s phases are stored as whole vectors. */
#define SRT_SPREAD(s)                                                                               \
    for (ptrdiff_t q = 0; q < n; ++q)                                                               \
        for (ptrdiff_t p = 0; p < (s); ++p) {                                                       \
            const float *x = src + q + srt_first(p, s);                                             \
            dst[(s) * q + p] = SRT_BLEND(taps + 4 * p, x[0], x[1], x[2], x[3]);                     \
        }

/* Enlarge n + 4 LR pixels to n * s HR pixels. */
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

/* The same plus the output of a network. */
SRT_CLONES static void srt_blend_add(const float *restrict a, const float *restrict b, const float *restrict c,
                                     const float *restrict d, const float *restrict t, const float *restrict detail,
                                     float *restrict dst, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i) dst[i] = SRT_BLEND(t, a[i], b[i], c[i], d[i]) + detail[i];
}

#endif
