/* The innermost loops, over a block of rows. They are in C so that function attributes of the compiler apply:
 * with gcc and glibc on x86-64, each is compiled for the baseline, AVX2 and AVX-512, and the dynamic linker
 * selects one. A portable wheel so uses full vector width.
 *
 * There are three kinds of blocks: contiguous samples (gray, planar), interleaved pixels of three or four
 * samples, and any other stride. Interleaved pixels take one pass over all channels, so that the compiler
 * shuffles whole vectors and every cache line is read once.
 */
#ifndef SRT_ROWS_H
#define SRT_ROWS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12 /* the first with x86-64-v4; older names of AVX-512 targets mean Intel CPUs only */
#define SRT_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define SRT_CLONES __attribute__((target_clones("default", "avx2")))
#endif
#else
#define SRT_CLONES
#endif

/* Adding and subtracting 1.5 * 2^23 rounds half to even in the default rounding mode, for |v| < 2^22, and needs
 * SSE2 only. The comparison maps NaN to 0. */
static inline float srt_round_clip(float v, float top) {
    v = v > 0.0f ? v : 0.0f;
    v = v < top ? v : top;
    return (v + 12582912.0f) - 12582912.0f;
}

#define SRT_TO_INT(v) ((int32_t)srt_round_clip((v) * gain, gain))
#define SRT_TO_FLOAT(v) ((v) * gain)

/* Hardware prefetchers do not find the next rows of an image, which are kilobytes away, on other pages. They are
 * prefetched a few rows ahead. Windows are read sequentially and need no prefetching. */
#define SRT_DISTANCE 4
#if defined(__GNUC__)
#define SRT_AHEAD(row, pitch, samples, write)                                                       \
    if (y + SRT_DISTANCE < h)                                                                       \
        for (ptrdiff_t k = 0; k < (samples) * (ptrdiff_t)sizeof *(row); k += 64)                    \
            __builtin_prefetch((const char *)((row) + SRT_DISTANCE * (pitch)) + k, write);
#else
#define SRT_AHEAD(row, pitch, samples, write)
#endif

#define SRT_ROWS for (ptrdiff_t y = 0; y < h; ++y, src += src_row, dst += dst_row)

#define SRT_DEFINE(SUFFIX, TYPE, CONVERT)                                                           \
    SRT_CLONES static void srt_load_##SUFFIX(const TYPE *src, ptrdiff_t src_row, ptrdiff_t step,    \
                                             float *dst, ptrdiff_t dst_row, ptrdiff_t h,            \
                                             ptrdiff_t w, float gain) {                             \
        SRT_ROWS {                                                                                  \
            const TYPE *restrict s = src;                                                           \
            float *restrict a = dst;                                                                \
            if (step == 1) {                                                                        \
                SRT_AHEAD(src, src_row, w, 0)                                                       \
                for (ptrdiff_t i = 0; i < w; ++i) a[i] = gain * (float)s[i];                        \
            } else                                                                                  \
                for (ptrdiff_t i = 0; i < w; ++i) a[i] = gain * (float)s[i * step];                 \
        }                                                                                           \
    }                                                                                               \
    SRT_CLONES static void srt_load3_##SUFFIX(const TYPE *src, ptrdiff_t src_row, float *dst,       \
                                              ptrdiff_t dst_row, ptrdiff_t plane, ptrdiff_t h,      \
                                              ptrdiff_t w, float gain) {                            \
        SRT_ROWS {                                                                                  \
            SRT_AHEAD(src, src_row, 3 * w, 0)                                                       \
            const TYPE *restrict s = src;                                                           \
            float *restrict a = dst, *restrict b = dst + plane, *restrict c = dst + 2 * plane;      \
            for (ptrdiff_t i = 0; i < w; ++i) {                                                     \
                a[i] = gain * (float)s[3 * i];                                                      \
                b[i] = gain * (float)s[3 * i + 1];                                                  \
                c[i] = gain * (float)s[3 * i + 2];                                                  \
            }                                                                                       \
        }                                                                                           \
    }                                                                                               \
    SRT_CLONES static void srt_load4_##SUFFIX(const TYPE *src, ptrdiff_t src_row, float *dst,       \
                                              ptrdiff_t dst_row, ptrdiff_t plane, ptrdiff_t h,      \
                                              ptrdiff_t w, float gain) {                            \
        SRT_ROWS {                                                                                  \
            SRT_AHEAD(src, src_row, 4 * w, 0)                                                       \
            const TYPE *restrict s = src;                                                           \
            float *restrict a = dst, *restrict b = dst + plane;                                     \
            float *restrict c = dst + 2 * plane, *restrict d = dst + 3 * plane;                     \
            for (ptrdiff_t i = 0; i < w; ++i) {                                                     \
                a[i] = gain * (float)s[4 * i];                                                      \
                b[i] = gain * (float)s[4 * i + 1];                                                  \
                c[i] = gain * (float)s[4 * i + 2];                                                  \
                d[i] = gain * (float)s[4 * i + 3];                                                  \
            }                                                                                       \
        }                                                                                           \
    }                                                                                               \
    SRT_CLONES static void srt_store_##SUFFIX(const float *src, ptrdiff_t src_row, TYPE *dst,       \
                                              ptrdiff_t dst_row, ptrdiff_t step, ptrdiff_t h,       \
                                              ptrdiff_t w, float gain) {                            \
        SRT_ROWS {                                                                                  \
            const float *restrict s = src;                                                          \
            TYPE *restrict a = dst;                                                                 \
            if (step == 1) {                                                                        \
                SRT_AHEAD(dst, dst_row, w, 1)                                                       \
                for (ptrdiff_t i = 0; i < w; ++i) a[i] = (TYPE)CONVERT(s[i]);                       \
            } else                                                                                  \
                for (ptrdiff_t i = 0; i < w; ++i) a[i * step] = (TYPE)CONVERT(s[i]);                \
        }                                                                                           \
    }                                                                                               \
    SRT_CLONES static void srt_store3_##SUFFIX(const float *src, ptrdiff_t src_row,                 \
                                               ptrdiff_t plane, TYPE *dst, ptrdiff_t dst_row,       \
                                               ptrdiff_t h, ptrdiff_t w, float gain) {              \
        SRT_ROWS {                                                                                  \
            SRT_AHEAD(dst, dst_row, 3 * w, 1)                                                       \
            const float *restrict a = src, *restrict b = src + plane, *restrict c = src + 2 * plane;\
            TYPE *restrict out = dst;                                                               \
            for (ptrdiff_t i = 0; i < w; ++i) {                                                     \
                out[3 * i] = (TYPE)CONVERT(a[i]);                                                   \
                out[3 * i + 1] = (TYPE)CONVERT(b[i]);                                               \
                out[3 * i + 2] = (TYPE)CONVERT(c[i]);                                               \
            }                                                                                       \
        }                                                                                           \
    }                                                                                               \
    SRT_CLONES static void srt_store4_##SUFFIX(const float *src, ptrdiff_t src_row,                 \
                                               ptrdiff_t plane, TYPE *dst, ptrdiff_t dst_row,       \
                                               ptrdiff_t h, ptrdiff_t w, float gain) {              \
        SRT_ROWS {                                                                                  \
            SRT_AHEAD(dst, dst_row, 4 * w, 1)                                                       \
            const float *restrict a = src, *restrict b = src + plane;                               \
            const float *restrict c = src + 2 * plane, *restrict d = src + 3 * plane;               \
            TYPE *restrict out = dst;                                                               \
            for (ptrdiff_t i = 0; i < w; ++i) {                                                     \
                out[4 * i] = (TYPE)CONVERT(a[i]);                                                   \
                out[4 * i + 1] = (TYPE)CONVERT(b[i]);                                               \
                out[4 * i + 2] = (TYPE)CONVERT(c[i]);                                               \
                out[4 * i + 3] = (TYPE)CONVERT(d[i]);                                               \
            }                                                                                       \
        }                                                                                           \
    }

SRT_DEFINE(u8, uint8_t, SRT_TO_INT)
SRT_DEFINE(u16, uint16_t, SRT_TO_INT)
SRT_DEFINE(f32, float, SRT_TO_FLOAT)

SRT_CLONES static void srt_luma(const float *restrict r, const float *restrict g, const float *restrict b,
                                float *restrict y, ptrdiff_t n, float wr, float wg, float wb, float offset) {
    for (ptrdiff_t i = 0; i < n; ++i) y[i] = offset + wr * r[i] + wg * g[i] + wb * b[i];
}

/* Index in [0, n) of position i of the axis mirrored any number of times; the edge sample repeats. */
static inline ptrdiff_t srt_mirror(ptrdiff_t i, ptrdiff_t n) {
    if (i >= 0 && i < n) return i; /* the usual case; division is slow */
    const ptrdiff_t round = 2 * n;
    i %= round;
    if (i < 0) i += round;
    return i < n ? i : round - 1 - i;
}

#endif
