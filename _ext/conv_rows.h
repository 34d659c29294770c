/* The layers of conv_chain.h, for one instruction set. instruction_sets.h includes this file several times with
 *   SRT_LANES   floats in a vector
 *   SRT_GROUP   tiles, in two vectors of channels, that the product of matrices computes at once, a multiple of 2: their
 *               sums, two weights and a sample fill the registers
 *   SRT_BLOCK   tiles of a block, a multiple of SRT_GROUP, so that its samples stay in the cache
 *   SRT_TARGET  the function attribute that selects the instruction set
 *   SRT_NAME(x) the name of a function for this instruction set
 *
 * Every sample is the same sum in the same order, whichever group and block it is in: tiled and whole images agree bit
 * for bit.
 */
typedef float SRT_NAME(vec) __attribute__((vector_size(SRT_LANES * 4)));
typedef float SRT_NAME(unaligned) __attribute__((vector_size(SRT_LANES * 4), aligned(4), may_alias));
typedef int32_t SRT_NAME(ivec) __attribute__((vector_size(SRT_LANES * 4)));
#define VEC SRT_NAME(vec)
#define INLINE SRT_TARGET static inline __attribute__((always_inline))
#define AT(pointer) (*(VEC *)(pointer))
#define FROM(pointer) (*(const VEC *)(pointer))

/* value < 0 ? slope * value : value, of which one term is 0; not a number remains. */
INLINE VEC SRT_NAME(activate)(VEC value, int activation, VEC slope) {
    if (!activation) return value;
    const VEC positive = (VEC)((SRT_NAME(ivec))value & ~(value < 0.0f));
    return activation == SRT_PRELU ? positive + (value - positive) * slope : positive;
}

/* `count` pixels of one vector of channels of the first layer. planes: (in, 9, width). */
INLINE void SRT_NAME(first_pixels)(const int count, const srt_layer *layer, int v, const float *planes, ptrdiff_t width,
                                   float *out, ptrdiff_t pixel) {
    const float *weight = layer->weights + v * layer->in * SRT_TAPS * SRT_LANES;
    VEC sum[SRT_GROUP];
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m) sum[m] = FROM(layer->bias + v * SRT_LANES);
    for (int t = 0; t < layer->in * SRT_TAPS; ++t, planes += width, weight += SRT_LANES)
SRT_UNROLL(16)
        for (int m = 0; m < count; ++m) sum[m] += FROM(weight) * planes[m];
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m)
        AT(out + m * pixel + v * SRT_LANES) =
            SRT_NAME(activate)(sum[m], layer->activation, FROM(layer->slope + v * SRT_LANES));
}

/* One row of the first layer, from the sample of its first tap. memory: SRT_TAPS rows per input. */
SRT_TARGET static void SRT_NAME(first_layer)(const srt_layer *layer, const float *source, ptrdiff_t plane,
                                             ptrdiff_t pitch, float *out, ptrdiff_t width, float *memory) {
    const int vectors = (layer->out + SRT_LANES - 1) / SRT_LANES;
    const ptrdiff_t pixel = vectors * SRT_LANES;
    for (int c = 0; c < layer->in; ++c)
        for (int t = 0; t < SRT_TAPS; ++t) {
            const float *from = source + c * plane, *centre = from + pitch + 1;
            float *to = memory + (c * SRT_TAPS + t) * width;
            from += t / 3 * pitch + t % 3;
            for (ptrdiff_t x = 0; x < width; ++x) to[x] = t == SRT_TAPS / 2 ? from[x] : from[x] - centre[x];
        }
    for (int v = 0; v < vectors; ++v) {
        ptrdiff_t x = 0;
        for (; x + SRT_GROUP <= width; x += SRT_GROUP)
            SRT_NAME(first_pixels)(SRT_GROUP, layer, v, memory + x, width, out + x * pixel, pixel);
        for (; x < width; ++x) SRT_NAME(first_pixels)(1, layer, v, memory + x, width, out + x * pixel, pixel);
    }
}

/* B' of F(2,3): the polynomials that are 0 at all points but one. */
INLINE void SRT_NAME(spread_down)(const VEC *d, VEC *t) {
    t[0] = d[2] - d[0];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
}

/* B' of F(4,3). */
INLINE void SRT_NAME(spread_across)(const VEC *d, VEC *t) {
    const VEC a = d[4] - SRT_Q2 * d[2], b = d[3] - SRT_Q2 * d[1], c = d[4] - SRT_P2 * d[2], e = d[3] - SRT_P2 * d[1];
    t[0] = SRT_P2 * SRT_Q2 * d[0] - (SRT_P2 + SRT_Q2) * d[2] + d[4];
    t[1] = a + SRT_P * b;
    t[2] = a - SRT_P * b;
    t[3] = c + SRT_Q * e;
    t[4] = c - SRT_Q * e;
    t[5] = SRT_P2 * SRT_Q2 * d[1] - (SRT_P2 + SRT_Q2) * d[3] + d[5];
}

/* A' of F(4,3): the powers of the points. */
INLINE void SRT_NAME(gather_across)(const VEC *m, VEC *y) {
    const VEC a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = SRT_P * b + SRT_Q * d;
    y[2] = SRT_P2 * a + SRT_Q2 * c;
    y[3] = SRT_P2 * SRT_P * b + SRT_Q2 * SRT_Q * d + m[5];
}

/* A' of F(2,3). */
INLINE void SRT_NAME(gather_down)(const VEC *m, VEC *y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
}

/* Products at one place: `count` tiles x (in, vectors) weights. */
INLINE void SRT_NAME(matrix)(const int count, const int vectors, int in, const float *samples, ptrdiff_t pixel,
                              const float *weights, float *out, ptrdiff_t out_pixel) {
    VEC sum[SRT_GROUP][2];
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m)
SRT_UNROLL(2)
        for (int v = 0; v < vectors; ++v) sum[m][v] = (VEC){0};
    for (int c = 0; c < in; ++c, weights += vectors * SRT_LANES) {
        VEC w[2];
SRT_UNROLL(2)
        for (int v = 0; v < vectors; ++v) w[v] = FROM(weights + v * SRT_LANES);
SRT_UNROLL(16)
        for (int m = 0; m < count; ++m) {
            const VEC all = samples[m * pixel + c] - (VEC){0};
SRT_UNROLL(2)
            for (int v = 0; v < vectors; ++v) sum[m][v] += all * w[v];
        }
    }
SRT_UNROLL(16)
    for (int m = 0; m < count; ++m)
SRT_UNROLL(2)
        for (int v = 0; v < vectors; ++v) AT(out + m * out_pixel + v * SRT_LANES) = sum[m][v];
}

/* Products of `tiles` tiles, up to SRT_GROUP / 2 - 1 more are computed. */
SRT_TARGET static void SRT_NAME(matrices)(const srt_layer *layer, ptrdiff_t tiles, const float *samples, ptrdiff_t pixel,
                                          const float *weights, float *out, ptrdiff_t out_pixel) {
    const int all = (int)(out_pixel / SRT_LANES), vectors = all % 2 ? 1 : 2;
    for (int v = 0; v < all; v += vectors, weights += layer->in * vectors * SRT_LANES)
        for (ptrdiff_t t = 0; t < tiles;) {
            const int whole = tiles - t > SRT_GROUP / 2;
#define PRODUCT(count, vectors)                                                                              \
    SRT_NAME(matrix)(count, vectors, layer->in, samples + t * pixel, pixel, weights, out + t * out_pixel + v * SRT_LANES, \
                      out_pixel)
            if (vectors == 2) {
                if (whole) PRODUCT(SRT_GROUP, 2);
                else PRODUCT(SRT_GROUP / 2, 2);
            } else {
                if (whole) PRODUCT(SRT_GROUP, 1);
                else PRODUCT(SRT_GROUP / 2, 1);
            }
#undef PRODUCT
            t += whole ? SRT_GROUP : SRT_GROUP / 2;
        }
}

/* One row of tiles of a layer: four rows of samples -> two rows. memory: SRT_BLOCK_PIXELS of the wider of both. */
SRT_TARGET static void SRT_NAME(tiles)(const srt_layer *layer, const float *const *rows, float *const *out,
                                       ptrdiff_t count, float *memory) {
    const ptrdiff_t in = (layer->in + SRT_LANES - 1) / SRT_LANES * SRT_LANES;
    const ptrdiff_t to = (layer->out + SRT_LANES - 1) / SRT_LANES * SRT_LANES;
    const ptrdiff_t outputs = SRT_ACROSS * SRT_BLOCK, columns = outputs + SRT_READ_ACROSS - SRT_ACROSS;
    float *const down = memory;                                     /* (4, columns, in): B' along columns */
    float *const samples = down + SRT_READ_DOWN * columns * in;     /* (6, tiles, in): and along a row */
    float *const sums = samples + SRT_READ_ACROSS * SRT_BLOCK * in; /* (6, tiles, to) */
    float *const across = sums + SRT_READ_ACROSS * SRT_BLOCK * to;  /* (4, outputs, to): A' along rows */
    for (ptrdiff_t first = 0; first < count; first += SRT_BLOCK) {
        const ptrdiff_t tiles = count - first < SRT_BLOCK ? count - first : SRT_BLOCK, start = first * SRT_ACROSS;
        VEC d[SRT_READ_ACROSS], t[SRT_READ_ACROSS];
        for (ptrdiff_t x = 0; x < (SRT_ACROSS * tiles + columns - outputs) * in; x += SRT_LANES) {
SRT_UNROLL(4)
            for (int i = 0; i < SRT_READ_DOWN; ++i) d[i] = FROM(rows[i] + start * in + x);
            SRT_NAME(spread_down)(d, t);
SRT_UNROLL(4)
            for (int i = 0; i < SRT_READ_DOWN; ++i) AT(down + i * columns * in + x) = t[i];
        }
        for (int i = 0; i < SRT_READ_DOWN; ++i) {
            for (ptrdiff_t k = 0; k < tiles; ++k)
                for (ptrdiff_t c = 0; c < in; c += SRT_LANES) {
SRT_UNROLL(6)
                    for (int j = 0; j < SRT_READ_ACROSS; ++j)
                        d[j] = FROM(down + (i * columns + SRT_ACROSS * k + j) * in + c);
                    SRT_NAME(spread_across)(d, t);
SRT_UNROLL(6)
                    for (int j = 0; j < SRT_READ_ACROSS; ++j) AT(samples + (j * SRT_BLOCK + k) * in + c) = t[j];
                }
            for (int j = 0; j < SRT_READ_ACROSS; ++j)
                SRT_NAME(matrices)(layer, tiles, samples + j * SRT_BLOCK * in, in,
                                   layer->weights + (SRT_READ_ACROSS * i + j) * layer->in * to,
                                   sums + j * SRT_BLOCK * to, to);
            for (ptrdiff_t k = 0; k < tiles; ++k)
                for (ptrdiff_t c = 0; c < to; c += SRT_LANES) {
SRT_UNROLL(6)
                    for (int j = 0; j < SRT_READ_ACROSS; ++j) d[j] = FROM(sums + (j * SRT_BLOCK + k) * to + c);
                    SRT_NAME(gather_across)(d, t);
SRT_UNROLL(4)
                    for (int q = 0; q < SRT_ACROSS; ++q)
                        AT(across + (i * outputs + SRT_ACROSS * k + q) * to + c) = t[q];
                }
        }
        for (ptrdiff_t x = 0; x < SRT_ACROSS * tiles; ++x)
            for (ptrdiff_t c = 0; c < to; c += SRT_LANES) {
SRT_UNROLL(4)
                for (int i = 0; i < SRT_READ_DOWN; ++i) d[i] = FROM(across + (i * outputs + x) * to + c);
                SRT_NAME(gather_down)(d, t);
SRT_UNROLL(2)
                for (int q = 0; q < SRT_DOWN; ++q)
                    AT(out[q] + (start + x) * to + c) =
                        SRT_NAME(activate)(t[q] + FROM(layer->bias + c), layer->activation, FROM(layer->slope + c));
            }
    }
}
