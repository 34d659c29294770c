/* One row at a time: the innermost loops, in C so that the compiler's per-function
 * attributes reach them. Where it can (gcc or clang, x86-64, glibc) each is compiled for
 * the baseline, AVX2 and AVX-512, and the loader picks: a portable wheel runs full width.
 */
#ifndef SRT_ROWS_H
#define SRT_ROWS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) \
    && (!defined(__clang__) || __clang_major__ >= 14) && !defined(SRT_NO_CLONES)
#define SRT_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define SRT_CLONES
#endif

/* The common strides as constants: 1 (planar, gray), 3 (RGB), 4 (RGBA). */
#define SRT_BY_STEP(LOOP)          \
    switch (step) {                \
    case 1: LOOP(1); break;        \
    case 3: LOOP(3); break;        \
    case 4: LOOP(4); break;        \
    default: LOOP(step);           \
    }

#define SRT_LOAD_LOOP(S) for (ptrdiff_t i = 0; i < n; ++i) dst[i] = gain * (float)src[i * (S)]

#define SRT_DEFINE_LOAD(NAME, TYPE)                                                            \
    SRT_CLONES static void NAME(const TYPE *restrict src, ptrdiff_t step, float *restrict dst, \
                                ptrdiff_t n, float gain) {                                     \
        SRT_BY_STEP(SRT_LOAD_LOOP)                                                             \
    }

SRT_DEFINE_LOAD(srt_load_u8, uint8_t)
SRT_DEFINE_LOAD(srt_load_u16, uint16_t)
SRT_DEFINE_LOAD(srt_load_f32, float)

/* Adding and taking away 1.5 * 2^23 rounds half to even in the default rounding mode, for
 * any |v| < 2^22, in plain SSE2. The comparison sends NaN to 0. */
static inline float srt_round_clip(float v, float top) {
    v = v > 0.0f ? v : 0.0f;
    v = v < top ? v : top;
    return (v + 12582912.0f) - 12582912.0f;
}

#define SRT_STORE_LOOP(S)                  \
    for (ptrdiff_t i = 0; i < n; ++i)      \
        dst[i * (S)] = (SRT_TYPE)(int32_t)srt_round_clip(src[i] * gain, gain)

#define SRT_TYPE uint8_t
SRT_CLONES static void srt_store_u8(const float *restrict src, uint8_t *restrict dst, ptrdiff_t step,
                                    ptrdiff_t n, float gain) {
    SRT_BY_STEP(SRT_STORE_LOOP)
}
#undef SRT_TYPE
#define SRT_TYPE uint16_t
SRT_CLONES static void srt_store_u16(const float *restrict src, uint16_t *restrict dst, ptrdiff_t step,
                                     ptrdiff_t n, float gain) {
    SRT_BY_STEP(SRT_STORE_LOOP)
}
#undef SRT_TYPE

#define SRT_COPY_LOOP(S) for (ptrdiff_t i = 0; i < n; ++i) dst[i * (S)] = src[i] * gain
SRT_CLONES static void srt_store_f32(const float *restrict src, float *restrict dst, ptrdiff_t step,
                                     ptrdiff_t n, float gain) {
    SRT_BY_STEP(SRT_COPY_LOOP)
}

SRT_CLONES static void srt_luma(const float *restrict r, const float *restrict g, const float *restrict b,
                                float *restrict y, ptrdiff_t n, float wr, float wg, float wb, float offset) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = offset + wr * r[i] + wg * g[i] + wb * b[i];
}

SRT_CLONES static void srt_recolor(float *restrict r, float *restrict g, float *restrict b,
                                   const float *restrict y, ptrdiff_t n, float wr, float wg, float wb,
                                   float offset, float gain) {
    for (ptrdiff_t i = 0; i < n; ++i) {
        const float d = gain * (y[i] - (offset + wr * r[i] + wg * g[i] + wb * b[i]));
        r[i] += d;
        g[i] += d;
        b[i] += d;
    }
}

#endif
