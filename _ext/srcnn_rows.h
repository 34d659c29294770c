/* The layers of srcnn.h, for one instruction set; srcnn.h explains the algorithms, conv_rows.h the macros. Also
 *   SRT_PAIRS    LR columns, by two, that the first layer computes at once
 *   SRT_VECTORS  vectors of channels that it computes at once
 *   SRT_PIXELS   pixels that the other layers compute at once, in two vectors of channels
 *   SRT_TILES    FFT tiles of a batch
 *
 * Every sample is the same sum in the same order, whichever block it is in.
 */
/* Not a number remains. */
INLINE VEC SRT_NAME(relu)(VEC value) {
    return (VEC)((SRT_NAME(ivec))value & ~(value < 0.0f));
}

#include "fft16.h"

/* sum[m][v] += weights * samples of `count` pixels, over `rows` times `columns` samples. The weights of the next vector
 * of channels are `vector` floats further. */
INLINE void SRT_NAME(dot)(const int count, const int vectors, VEC (*sum)[SRT_VECTORS], const float *samples,
                          ptrdiff_t pixel, int rows, ptrdiff_t row, int columns, ptrdiff_t column,
                          const float *weights, ptrdiff_t vector) {
    for (int r = 0; r < rows; ++r, samples += row) {
        const float *s = samples;
        for (int c = 0; c < columns; ++c, s += column, weights += SRT_LANES) {
            VEC w[SRT_VECTORS];
SRT_UNROLL(4)
            for (int v = 0; v < vectors; ++v) w[v] = *(const VEC *)(weights + v * vector);
SRT_UNROLL(16)
            for (int m = 0; m < count; ++m) {
                const VEC all = s[m * pixel] - (VEC){0};
SRT_UNROLL(4)
                for (int v = 0; v < vectors; ++v) sum[m][v] += all * w[v];
            }
        }
    }
}

typedef VEC SRT_NAME(stash)[SRT_PAIRS][SRT_VECTORS];

/* One of the nine passes: to = a + b + kernel * plane. */
INLINE void SRT_NAME(pass)(const int vectors, const srt_srcnn *n, const srt_layout *at, const int *taps,
                           const float *plane, const float *weights, ptrdiff_t vector,
                           const SRT_NAME(stash) * a, const SRT_NAME(stash) * b, SRT_NAME(stash) * to) {
    VEC sum[SRT_PAIRS][SRT_VECTORS];
SRT_UNROLL(16)
    for (int m = 0; m < SRT_PAIRS; ++m)
SRT_UNROLL(4)
        for (int v = 0; v < vectors; ++v) {
            sum[m][v] = a ? (*a)[m][v] : (VEC){0};
            if (b) sum[m][v] += (*b)[m][v];
        }
    for (int c = 0; c < n->inputs; ++c, plane += at->height * at->width, weights += taps[0] * taps[1] * SRT_LANES)
        SRT_NAME(dot)(SRT_PAIRS, vectors, sum, plane, 2, taps[0], 2 * at->width, taps[1], 2, weights, vector);
SRT_UNROLL(16)
    for (int m = 0; m < SRT_PAIRS; ++m)
SRT_UNROLL(4)
        for (int v = 0; v < vectors; ++v) (*to)[m][v] = sum[m][v];
}

/* Two by two outputs of SRT_PAIRS pixels of one phase. planes: differences at the first tap. out: the place of the
 * first, whose neighbours are `down` and `right` floats further; vectors of channels are `plane` floats apart. */
INLINE void SRT_NAME(quad)(const int vectors, const srt_srcnn *n, const srt_layout *at, const int *taps,
                           const float *planes, const float *weights, const float *bias, float *const out[2],
                           ptrdiff_t right, ptrdiff_t plane) {
    const ptrdiff_t size = (ptrdiff_t)n->inputs * taps[0] * taps[1] * SRT_LANES, vector = SRT_PASSES * size;
    const ptrdiff_t kind = at->planes / 4;
    SRT_NAME(stash) start, bb, row, column, other, y;
    for (int m = 0; m < SRT_PAIRS; ++m)
        for (int v = 0; v < vectors; ++v) start[m][v] = *(const VEC *)(bias + v * SRT_LANES);
#define PLANE(differences, down, across) (planes + (differences) * kind + (down) * at->width + (across))
#define PASS(plane, index, a, b, to) \
    SRT_NAME(pass)(vectors, n, at, taps, plane, weights + (index) * size, vector, a, b, to)
#define STORE(down, across)                                                                        \
    for (int m = 0; m < SRT_PAIRS; ++m)                                                            \
        for (int v = 0; v < vectors; ++v)                                                          \
            *(VEC *)(out[down] + (2 * m + (across)) * right + v * plane) = SRT_NAME(relu)(y[m][v])
    /* Differences: 1 along rows, 2 along columns, 3 both. Kernels: A, B, C along columns, then along rows. */
    PASS(PLANE(0, 1, 1), 0, &start, NULL, &bb);
    PASS(PLANE(2, 0, 1), 3, NULL, NULL, &row);         /* A B */
    PASS(PLANE(1, 1, 0), 1, &bb, NULL, &column);       /* B A */
    PASS(PLANE(1, 1, 1), 2, &bb, NULL, &other);        /* -B C */
    PASS(PLANE(3, 0, 0), 4, &row, &column, &y);        /* A A */
    STORE(0, 0);
    PASS(PLANE(3, 0, 1), 5, &row, &other, &y);         /* -A C */
    STORE(0, 1);
    PASS(PLANE(2, 1, 1), 6, NULL, NULL, &row);         /* -C B */
    PASS(PLANE(3, 1, 0), 7, &row, &column, &y);        /* -C A */
    STORE(1, 0);
    PASS(PLANE(3, 1, 1), 8, &row, &other, &y);         /* C C */
    STORE(1, 1);
#undef PLANE
#undef PASS
#undef STORE
}

/* The first layer: the HR rows of two LR rows, `blocks` blocks of columns from HR column x on, which are stored from
 * column `to` on. */
SRT_TARGET static void SRT_NAME(first)(const srt_srcnn *n, const srt_layout *at, const float *planes, ptrdiff_t y,
                                       ptrdiff_t x, int blocks, float *ring, ptrdiff_t to) {
    const int s = n->scale, vectors = n->n1 / SRT_LANES;
    const ptrdiff_t plane = at->ring1 * at->width1 * SRT_LANES, right = s * SRT_LANES;
    const float *weights = n->first;
    for (int py = 0; py < s; ++py)
        for (int px = 0; px < s; ++px) {
            const int taps[2] = {n->taps[0][py], n->taps[1][px]};
            for (int v = 0; v < vectors;) {
                const int count = vectors - v < SRT_VECTORS ? vectors - v : SRT_VECTORS;
                const float *bias = n->bias1 + (py * s + px) * n->n1 + v * SRT_LANES;
                for (int b = 0; b < blocks; ++b) {
                    const float *from = planes + (y / s + n->low[0][py]) * at->width + (x + b * at->block) / s +
                                        n->low[1][px];
                    float *out[2];
                    for (int k = 0; k < 2; ++k)
                        out[k] = ring + v * plane +
                                 ((y + k * s + py) % at->ring1 * at->width1 + to + b * at->block + px) * SRT_LANES;
                    switch (count) {
#define CASE(c)                                                                             \
    case c:                                                                                 \
        SRT_NAME(quad)(c, n, at, taps, from, weights, bias, out, right, plane);             \
        break;
#if SRT_VECTORS == 4
                        CASE(4)
                        CASE(3)
#endif
                        CASE(2)
                        CASE(1)
#undef CASE
                    }
                }
                v += count;
                weights += (ptrdiff_t)count * SRT_PASSES * n->inputs * taps[0] * taps[1] * SRT_LANES;
            }
        }
}

/* A second layer of 1x1: one row of `width` pixels. */
INLINE void SRT_NAME(pointwise_block)(const int vectors, const srt_srcnn *n, const float *from, ptrdiff_t plane1,
                                      int v, float *out, ptrdiff_t plane2) {
    VEC sum[SRT_PIXELS][SRT_VECTORS];
SRT_UNROLL(16)
    for (int m = 0; m < SRT_PIXELS; ++m)
SRT_UNROLL(2)
        for (int k = 0; k < vectors; ++k) sum[m][k] = *(const VEC *)(n->bias2 + (v + k) * SRT_LANES);
    const ptrdiff_t vector = (ptrdiff_t)n->n1 * SRT_LANES;
    SRT_NAME(dot)(SRT_PIXELS, vectors, sum, from, SRT_LANES, n->n1 / SRT_LANES, plane1, SRT_LANES, 1,
                  n->second + v * vector, vector);
SRT_UNROLL(16)
    for (int m = 0; m < SRT_PIXELS; ++m)
SRT_UNROLL(2)
        for (int k = 0; k < vectors; ++k)
            *(VEC *)(out + (v + k) * plane2 + m * SRT_LANES) = SRT_NAME(relu)(sum[m][k]);
}

SRT_TARGET static void SRT_NAME(pointwise)(const srt_srcnn *n, const float *from, ptrdiff_t plane1, float *out,
                                           ptrdiff_t plane2, ptrdiff_t width) {
    for (ptrdiff_t x = 0; x < width; x += SRT_PIXELS)
        for (int v = 0; v < n->n2 / SRT_LANES; v += 2)
            if (n->n2 / SRT_LANES - v > 1)
                SRT_NAME(pointwise_block)(2, n, from + x * SRT_LANES, plane1, v, out + x * SRT_LANES, plane2);
            else
                SRT_NAME(pointwise_block)(1, n, from + x * SRT_LANES, plane1, v, out + x * SRT_LANES, plane2);
}

/* The products of one place of `count` spectra, over their samples in `place`: (count, n1) -> (count, n2). */
INLINE void SRT_NAME(product_block)(const int count, const int vectors, const srt_srcnn *n, const float *place,
                                    const float *weights, float *out) {
    VEC sum[SRT_PIXELS][SRT_VECTORS];
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m)
SRT_UNROLL(2)
        for (int k = 0; k < vectors; ++k) sum[m][k] = (VEC){0};
    SRT_NAME(dot)(count, vectors, sum, place, n->n1, 1, 0, n->n1, 1, weights, (ptrdiff_t)n->n1 * SRT_LANES);
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m)
SRT_UNROLL(2)
        for (int k = 0; k < vectors; ++k) *(VEC *)(out + m * n->n2 + k * SRT_LANES) = sum[m][k];
}

SRT_TARGET static void SRT_NAME(product)(const srt_srcnn *n, int count, float *place, const float *weights,
                                         float *scratch) {
    const int vectors = n->n2 / SRT_LANES;
    for (int t = 0; t < count; t += SRT_PIXELS) {
        const float *from = place + t * n->n1;
        for (int v = 0; v < vectors; v += 2) {
            const float *w = weights + (ptrdiff_t)v * n->n1 * SRT_LANES;
            float *out = scratch + t * n->n2 + v * SRT_LANES;
            switch ((count - t < SRT_PIXELS ? count - t : SRT_PIXELS) + (vectors - v > 1 ? 0 : 100)) {
#define CASE(c)                                               \
    case c:                                                   \
        SRT_NAME(product_block)(c, 2, n, from, w, out);       \
        break;                                                \
    case c + 100:                                             \
        SRT_NAME(product_block)(c, 1, n, from, w, out);       \
        break;
#if SRT_PIXELS == 14
                CASE(14)
                CASE(13)
                CASE(12)
                CASE(11)
                CASE(10)
                CASE(9)
                CASE(8)
                CASE(7)
#endif
                CASE(6)
                CASE(5)
                CASE(4)
                CASE(3)
                CASE(2)
                CASE(1)
#undef CASE
            }
        }
    }
    memcpy(place, scratch, (size_t)count * n->n2 * sizeof(float));
}

/* A second layer by FFT: `count` tiles of a strip whose first row is y, from tile `tile` on. */
SRT_TARGET static void SRT_NAME(transformed)(const srt_srcnn *n, const srt_layout *at, const float *ring1, ptrdiff_t y,
                                             ptrdiff_t tile, int count, float *spectra, float *ring2) {
    float scratch[SRT_TILES * SRT_MAX_N2] __attribute__((aligned(64)));
    for (int t = 0; t < count; ++t)
        for (int v = 0; v < n->n1 / SRT_LANES; ++v) {
            const float *rows[SRT_FFT];
            for (int k = 0; k < SRT_FFT; ++k)
                rows[k] = ring1 + ((v * at->ring1 + (y + k) % at->ring1) * at->width1 + (tile + t) * SRT_TILE) * SRT_LANES;
            SRT_NAME(forward)(rows, spectra + t * n->n1 + v * SRT_LANES, at->pitch);
        }
    for (int p = 0; p < SRT_SPECTRUM; ++p)
        SRT_NAME(product)(n, count, spectra + p * at->pitch, n->second + (ptrdiff_t)p * n->n1 * n->n2, scratch);
    for (int t = 0; t < count; ++t)
        for (int v = 0; v < n->n2 / SRT_LANES; ++v) {
            float *rows[SRT_TILE];
            for (int k = 0; k < SRT_TILE; ++k)
                rows[k] = ring2 + ((v * at->ring2 + (y + k) % at->ring2) * at->width2 + (tile + t) * SRT_TILE) * SRT_LANES;
            SRT_NAME(inverse)(spectra + t * n->n2 + v * SRT_LANES, at->pitch, n->bias2 + v * SRT_LANES, rows);
        }
}

/* a[0] + a[1], a[2] + a[3], ... of two vectors, one after the other. Clang has no shuffle by a variable. */
INLINE VEC SRT_NAME(pair_sums)(VEC a, VEC b) {
#if defined(__clang__)
    VEC even, odd;
SRT_UNROLL(16)
    for (int k = 0; k < SRT_LANES / 2; ++k) {
        even[k] = a[2 * k], odd[k] = a[2 * k + 1];
        even[SRT_LANES / 2 + k] = b[2 * k], odd[SRT_LANES / 2 + k] = b[2 * k + 1];
    }
    return even + odd;
#else
    SRT_NAME(ivec) even, odd;
    for (int k = 0; k < SRT_LANES; ++k) even[k] = 2 * k, odd[k] = 2 * k + 1;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

/* Sums of the lanes of SRT_LANES vectors. */
INLINE VEC SRT_NAME(lane_sums)(VEC *a) {
SRT_UNROLL(4)
    for (int half = SRT_LANES / 2; half; half /= 2)
SRT_UNROLL(8)
        for (int k = 0; k < half; ++k) a[k] = SRT_NAME(pair_sums)(a[2 * k], a[2 * k + 1]);
    return a[0];
}

/* The last layer: a row of `width` samples, up to SRT_LANES - 1 more are written. */
INLINE void SRT_NAME(last_row)(const int k3, const float *const *rows, ptrdiff_t plane, int vectors,
                               const float *weights, float bias, float *out, ptrdiff_t width) {
    for (ptrdiff_t x = 0; x < width; x += SRT_LANES) {
        VEC sum[SRT_LANES];
SRT_UNROLL(16)
        for (int m = 0; m < SRT_LANES; ++m) sum[m] = (VEC){0};
        const float *weight = weights;
        for (int y = 0; y < k3; ++y)
            for (int v = 0; v < vectors; ++v, weight += k3 * SRT_LANES) {
                const float *s = rows[y] + v * plane + x * SRT_LANES;
                VEC w[SRT_MAX_KERNEL_3];
SRT_UNROLL(5)
                for (int k = 0; k < k3; ++k) w[k] = *(const VEC *)(weight + k * SRT_LANES);
SRT_UNROLL(20)
                for (int m = 0; m < SRT_LANES + k3 - 1; ++m) {
                    const VEC sample = *(const VEC *)(s + m * SRT_LANES);
SRT_UNROLL(5)
                    for (int k = 0; k < k3; ++k)
                        if (m >= k && m - k < SRT_LANES) sum[m - k] += w[k] * sample;
                }
            }
        *(SRT_NAME(unaligned) *)(out + x) = SRT_NAME(lane_sums)(sum) + bias;
    }
}

SRT_TARGET static void SRT_NAME(last)(const srt_srcnn *n, const srt_layout *at, const float *ring, ptrdiff_t y,
                                      float *result, float *target, ptrdiff_t target_plane, ptrdiff_t target_pitch) {
    const int vectors = n->n2 / SRT_LANES;
    const ptrdiff_t plane = at->ring2 * at->width2 * SRT_LANES;
    const float *rows[SRT_MAX_KERNEL_3];
    for (int k = 0; k < n->k3; ++k) rows[k] = ring + (y + k) % at->ring2 * at->width2 * SRT_LANES;
    for (int o = 0; o < n->outputs; ++o) {
        const float *weights = n->last + (ptrdiff_t)o * n->k3 * n->k3 * n->n2;
        if (n->k3 == 5)
            SRT_NAME(last_row)(5, rows, plane, vectors, weights, n->bias3[o], result, at->columns);
        else if (n->k3 == 3)
            SRT_NAME(last_row)(3, rows, plane, vectors, weights, n->bias3[o], result, at->columns);
        else
            SRT_NAME(last_row)(1, rows, plane, vectors, weights, n->bias3[o], result, at->columns);
        memcpy(target + o * target_plane + y * target_pitch, result, (size_t)at->columns * sizeof(float));
    }
}

/* The samples of a window and their differences along rows, along columns and along both. */
SRT_TARGET static void SRT_NAME(differences)(const srt_srcnn *n, const srt_layout *at, const float *source,
                                             ptrdiff_t plane, ptrdiff_t h, ptrdiff_t w, float *planes) {
    const ptrdiff_t kind = at->planes / 4;
    const ptrdiff_t height = h < at->height ? h : at->height, width = w < at->width ? w : at->width;
    for (int c = 0; c < n->inputs; ++c)
        for (ptrdiff_t y = 0; y < height; ++y) {
            const float *a = source + c * plane + y * w, *b = y + 1 < h ? a + w : a;
            float *to = planes + (c * at->height + y) * at->width;
            for (ptrdiff_t x = 0; x < width; ++x) {
                const ptrdiff_t next = x + 1 < w;
                const float right = a[x] - a[x + next];
                to[x] = a[x];
                to[kind + x] = right;
                to[2 * kind + x] = a[x] - b[x];
                to[3 * kind + x] = right - (b[x] - b[x + next]);
            }
        }
}

/* A window: source (inputs, h, w) -> target (outputs, rows, columns). Returns 1 as soon as `*stop` is not 0. */
SRT_TARGET static int SRT_NAME(srcnn)(const srt_srcnn *n, const srt_layout *at, const float *source, ptrdiff_t plane,
                                      ptrdiff_t h, ptrdiff_t w, float *target, ptrdiff_t target_plane,
                                      ptrdiff_t target_pitch, float *memory, const volatile int *stop) {
    float *planes = memory, *ring1 = planes + at->planes, *ring2 = ring1 + at->first;
    float *spectra = ring2 + at->second, *result = spectra + at->spectra;
    const ptrdiff_t pair = 2 * n->scale, inner = at->columns + n->k3 - 1;
    ptrdiff_t made = 0, done = 0; /* rows of the first and of the last layer */
    SRT_NAME(differences)(n, at, source, plane, h, w, planes);
    for (ptrdiff_t y = 0; done < at->rows; y += at->step) {
        if (*stop) return 1;
        const ptrdiff_t need = srt_up(y + at->step + n->k2 - 1, pair);
        if (n->k2 == 1) {
            for (ptrdiff_t x = 0; x < inner; x += at->width1) {
                ptrdiff_t width = srt_up(inner - x, at->block);
                if (width > at->width1) width = at->width1;
                SRT_NAME(first)(n, at, planes, y, x, (int)(width / at->block), ring1, 0);
                for (ptrdiff_t r = y; r < y + at->step; ++r)
                    SRT_NAME(pointwise)(n, ring1 + r % at->ring1 * at->width1 * SRT_LANES,
                                        at->ring1 * at->width1 * SRT_LANES,
                                        ring2 + (r % at->ring2 * at->width2 + x) * SRT_LANES,
                                        at->ring2 * at->width2 * SRT_LANES, width);
            }
        } else {
            ptrdiff_t x = 0; /* columns of the first layer that are made */
            for (ptrdiff_t tile = 0; tile < at->tiles; tile += at->batch) {
                const ptrdiff_t count = at->tiles - tile < at->batch ? at->tiles - tile : at->batch;
                const ptrdiff_t missing = SRT_TILE * (tile + count) + SRT_FFT - SRT_TILE - x;
                const ptrdiff_t blocks = missing > 0 ? (missing + at->block - 1) / at->block : 0;
                for (ptrdiff_t r = made; r < need; r += pair)
                    SRT_NAME(first)(n, at, planes, r, x, (int)blocks, ring1, x);
                x += blocks * at->block;
                SRT_NAME(transformed)(n, at, ring1, y, tile, (int)count, spectra, ring2);
            }
        }
        made = need;
        for (; done < at->rows && done + n->k3 <= y + at->step; ++done)
            SRT_NAME(last)(n, at, ring2, done, result, target, target_plane, target_pitch);
    }
    return 0;
}
