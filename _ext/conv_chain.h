/* A chain of unpadded 3 x 3 convolutions with ReLU or PReLU between them, in float32.
 *
 * The first layer, of one or a few channels, is computed directly from differences to the central sample, whose own
 * weight is the sum of all: kernels that sum to zero find exactly nothing in a flat area, however bright it is.
 *
 * The others use the fast filters F(2,3) along columns and F(4,3) along rows (Winograd, Arithmetic Complexity of
 * Computations, 1980; Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4): 2 x 4
 * outputs, a tile, are computed from 4 x 6 samples d and the kernel g by
 *   A' [(G g H') . (B' d C)] D
 * with 24 products per pair of channels in place of 72. The products of all tiles and channels at one of the 24 places are
 * one product of matrices.
 *
 * F(2,3) has the points 0, 1, -1 and infinity, F(4,3) 0, 5/8, -5/8, 3/2, -3/2 and infinity. With the usual 0, 1, -1, 2, -2
 * the rounding error is twice as large (after Barabasz, Anderson, Soodhalter and Gregg, Error Analysis and Improving the
 * Accuracy of Winograd Convolution for Deep Neural Networks, 2020); with F(4,3) on both axes the largest samples of a tile
 * disturb its flat parts, which deep networks amplify. benchmarks/fast_filters.py compares them.
 *
 * The rounding error of a sample depends on all samples of its tile. Tiles start at multiples of 4 columns and 2 rows from
 * the window's origin, so windows that start at multiples of these agree bit for bit, and they must contain all tiles that
 * a layer reads. A layer's tiles start 2 columns before those of the next layer: the margin there grows by 2 per layer.
 *
 * A window is computed by 2 rows through all layers, each as soon as its input is there, so that activations stay in the
 * caches. Every layer keeps the last 4 rows that it has computed. Rows hold all channels of a pixel side by side, filled
 * up to whole vectors.
 *
 * The rearrangement of s*s channels to s x s pixels (depth to space, in the order of torch's pixel shuffle) is part of
 * writing the last layer's rows.
 */
#ifndef SRT_CONV_CHAIN_H
#define SRT_CONV_CHAIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "srcnn.h"

enum { SRT_LINEAR, SRT_RELU, SRT_PRELU };
#define SRT_MAX_LAYERS 64
#define SRT_DOWN 2        /* rows of a tile's outputs */
#define SRT_ACROSS 4      /* and columns */
#define SRT_READ_DOWN 4   /* rows of its samples */
#define SRT_READ_ACROSS 6 /* and columns */
#define SRT_TAPS 9
#define SRT_P 0.625f /* points of F(4,3), and their squares, all exact */
#define SRT_P2 (SRT_P * SRT_P)
#define SRT_Q 1.5f
#define SRT_Q2 (SRT_Q * SRT_Q)

typedef struct {
    int in, out, activation;
    /* First layer: (v, in, 9, lanes), v vectors of output channels; the fifth tap has the sum of all. Others:
     * (24, v / b, in, b, lanes), where b is 2, or 1 if v is odd. */
    const float *weights;
    const float *bias;  /* (v, lanes) */
    const float *slope; /* likewise */
} srt_layer;

typedef struct {
    const srt_layer *layers;
    int count, scale;
} srt_chain;

#include "instruction_sets.h"

/* Floats of a pixel of `channels`. */
static inline ptrdiff_t srt_pixel(int channels, int lanes) {
    return (channels + lanes - 1) / lanes * (ptrdiff_t)lanes;
}

/* Columns by which layer `k` exceeds the result on both sides. It does so by one row per layer. */
static inline ptrdiff_t srt_chain_excess(int count, int k) {
    if (k == count - 1) return 0;
    return k ? 2 * (count - 1 - k) : 2 * (count - 1) - 1;
}

/* Floats of all rings, of a block of tiles and of the first layer's differences, for results of `width` columns. */
static ptrdiff_t srt_chain_floats(const srt_chain *chain, int isa, ptrdiff_t width) {
    const int lanes = srt_isas[isa].lanes;
    ptrdiff_t floats = 0, widest = 0;
    for (int k = 0; k < chain->count; ++k) {
        const ptrdiff_t pixel = srt_pixel(chain->layers[k].out, lanes);
        floats += SRT_READ_DOWN * (width + 2 * srt_chain_excess(chain->count, k)) * pixel;
        if (pixel > widest) widest = pixel;
    }
    const ptrdiff_t block = srt_isas[isa].block_pixels * widest;
    const ptrdiff_t first = SRT_TAPS * chain->layers->in * (width + 2 * srt_chain_excess(chain->count, 0));
    return floats + (block > first ? block : first);
}

/* Write rows of the last layer, each of `width` pixels: (row, x, s*s*c + s*p + q) -> (c, s*row + p, s*x + q). */
static void srt_shuffle(const srt_chain *chain, const float *from, ptrdiff_t pixel, ptrdiff_t rows, ptrdiff_t width,
                        float *target, ptrdiff_t plane) {
    const int s = chain->scale, channels = chain->layers[chain->count - 1].out / (s * s);
    for (ptrdiff_t y = 0; y < rows; ++y, from += width * pixel)
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < s; ++p) {
                float *to = target + c * plane + (y * s + p) * width * s;
                const float *phase = from + (c * s + p) * s;
                if (s == 2)
                    for (ptrdiff_t x = 0; x < width; ++x) memcpy(to + 2 * x, phase + x * pixel, 2 * sizeof(float));
                else
                    for (ptrdiff_t x = 0; x < width; ++x)
                        for (int q = 0; q < s; ++q) to[s * x + q] = phase[x * pixel + q];
            }
}

/* Compute a result of `h` x `w` LR pixels, multiples of a tile's sides, from the sample of its first tap on, in rows that
 * are `pitch` and channels that are `plane` floats apart. Channels of the target are `target_plane` floats apart. memory:
 * srt_chain_floats, aligned to vectors. Returns 1 as soon as `*stop` is not 0. */
static int srt_chain_run(const srt_chain *chain, int isa, const float *source, ptrdiff_t plane, ptrdiff_t pitch,
                         ptrdiff_t h, ptrdiff_t w, float *target, ptrdiff_t target_plane, float *memory,
                         const volatile int *stop) {
    const srt_isa *set = srt_isas + isa;
    const int count = chain->count, last = count - 1;
    float *rings[SRT_MAX_LAYERS]; /* what each layer has computed */
    ptrdiff_t pixels[SRT_MAX_LAYERS], widths[SRT_MAX_LAYERS];
    for (int k = 0; k < count; ++k) {
        pixels[k] = srt_pixel(chain->layers[k].out, set->lanes);
        widths[k] = w + 2 * srt_chain_excess(count, k);
        rings[k] = memory;
        memory += SRT_READ_DOWN * widths[k] * pixels[k];
    }
    for (ptrdiff_t y = 0; y < h + SRT_DOWN * last; y += SRT_DOWN) { /* of the first layer; each is a tile ahead */
        if (*stop) return 1;
        for (ptrdiff_t row = y; row < y + SRT_DOWN; ++row)
            set->first(chain->layers, source + row * pitch, plane, pitch,
                       rings[0] + row % SRT_READ_DOWN * widths[0] * pixels[0], widths[0], memory);
        for (int k = 1; k < count && y >= SRT_DOWN * k; ++k) {
            const ptrdiff_t top = y - SRT_DOWN * k;
            const int lead = k > 1; /* columns that the layer before has before the first sample */
            const float *from[SRT_READ_DOWN];
            float *to[SRT_DOWN];
            for (int i = 0; i < SRT_READ_DOWN; ++i)
                from[i] = rings[k - 1] + ((top + i) % SRT_READ_DOWN * widths[k - 1] + lead) * pixels[k - 1];
            for (int i = 0; i < SRT_DOWN; ++i) to[i] = rings[k] + (top + i) % SRT_READ_DOWN * widths[k] * pixels[k];
            set->chain(chain->layers + k, from, to, widths[k] / SRT_ACROSS, memory);
        }
        const ptrdiff_t row = y - SRT_DOWN * last;
        if (row >= 0)
            srt_shuffle(chain, rings[last] + row % SRT_READ_DOWN * w * pixels[last], pixels[last], SRT_DOWN, w,
                        target + row * chain->scale * chain->scale * w, target_plane);
    }
    return 0;
}

#endif
