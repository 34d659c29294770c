/* A chain of 3 x 3 convolutions with ReLU or PReLU between them, all unpadded or all padded by zeros, in float32.
 *
 * The first layer, of one or a few channels, is computed directly from differences to the central sample, whose own
 * weight is the sum of all: in a flat area only that one product is left.
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
 * A padded chain is an unpadded one of an endless window, in which all layers are 0 outside the image.
 *
 * A window is computed by 2 rows through all layers, each as soon as its input is there, so that activations stay in the
 * caches. Every layer keeps the last 4 rows that it has computed. Rows hold all channels of a pixel side by side, filled
 * up to whole vectors.
 *
 * The rearrangement of s*s channels to s x s pixels (depth to space, in the order of torch's pixel shuffle) is part of
 * writing the last layer's rows, and so is the sum with the window, each of whose samples is repeated s x s times.
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
    int padded, added; /* whether the layers pad, and whether the window is added to the result */
} srt_chain;

/* A window, or some of its rows. */
typedef struct {
    const float *source;
    ptrdiff_t plane, pitch; /* floats between its channels and rows */
    ptrdiff_t h, w;         /* of the result, LR pixels. Unpadded: multiples of a tile's sides, */
                            /* and `source` is the sample of the first tap. Padded: of the whole window */
    ptrdiff_t top, bottom;  /* rows of the result that are computed; `top` is a multiple of SRT_DOWN */
    float *target;          /* of row `top`, whose channels are `target_plane` floats apart */
    ptrdiff_t target_plane;
} srt_part;

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

static inline ptrdiff_t srt_ceil(ptrdiff_t n, ptrdiff_t step) {
    return (n + step - 1) / step * step;
}

/* Columns of the rows of layer `k`, for results of `width` columns. */
static inline ptrdiff_t srt_chain_width(const srt_chain *chain, int k, ptrdiff_t width) {
    return srt_ceil(width, SRT_ACROSS) + 2 * srt_chain_excess(chain->count, k);
}

/* Floats of all rings, of a row of zeros, of a padded chain's input, and of a block of tiles or the first layer's
 * differences, for results of `width` columns. */
static ptrdiff_t srt_chain_floats(const srt_chain *chain, int isa, ptrdiff_t width) {
    const int lanes = srt_isas[isa].lanes;
    const ptrdiff_t first = srt_chain_width(chain, 0, width);
    ptrdiff_t floats = 0, widest = 0;
    for (int k = 0; k < chain->count; ++k) {
        const ptrdiff_t pixel = srt_pixel(chain->layers[k].out, lanes);
        floats += SRT_READ_DOWN * srt_chain_width(chain, k, width) * pixel;
        if (pixel > widest) widest = pixel;
    }
    floats += chain->padded ? first * widest + srt_ceil(3 * chain->layers->in * (first + 2), lanes) : 0;
    const ptrdiff_t block = srt_isas[isa].block_pixels * widest, differences = SRT_TAPS * chain->layers->in * first;
    return floats + (block > differences ? block : differences);
}

/* Write `rows` rows of the last layer: (row, x, s*s*c + s*p + q) -> (c, s*row + p, s*x + q). `added`: the sample of the
 * window that belongs to the first, or NULL. */
static void srt_shuffle(const srt_chain *chain, const srt_part *part, const float *from, ptrdiff_t pitch,
                        ptrdiff_t pixel, ptrdiff_t rows, const float *added, float *target) {
    const int s = chain->scale, channels = chain->layers[chain->count - 1].out / (s * s);
    const ptrdiff_t w = part->w;
    for (ptrdiff_t y = 0; y < rows; ++y, from += pitch)
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < s; ++p) {
                float *to = target + c * part->target_plane + (y * s + p) * w * s;
                const float *phase = from + (c * s + p) * s;
                if (s == 2)
                    for (ptrdiff_t x = 0; x < w; ++x) memcpy(to + 2 * x, phase + x * pixel, 2 * sizeof(float));
                else
                    for (ptrdiff_t x = 0; x < w; ++x)
                        for (int q = 0; q < s; ++q) to[s * x + q] = phase[x * pixel + q];
                if (!added) continue;
                const float *sample = added + c * part->plane + y * part->pitch;
                for (ptrdiff_t x = 0; x < w; ++x)
                    for (int q = 0; q < s; ++q) to[s * x + q] += sample[x];
            }
}

/* Set the columns of some rows of a padded layer that are outside the image to 0. */
static void srt_clear(float *row, ptrdiff_t before, ptrdiff_t image, ptrdiff_t width, ptrdiff_t pixel) {
    memset(row, 0, (size_t)(before * pixel) * sizeof(float));
    memset(row + (before + image) * pixel, 0, (size_t)((width - before - image) * pixel) * sizeof(float));
}

/* Compute rows of a result. memory: srt_chain_floats, aligned to vectors. Returns 1 as soon as `*stop` is not 0. */
static int srt_chain_run(const srt_chain *chain, int isa, const srt_part *part, float *memory, const volatile int *stop) {
    const srt_isa *set = srt_isas + isa;
    const srt_layer *layers = chain->layers;
    const int count = chain->count, last = count - 1, in = layers->in;
    float *rings[SRT_MAX_LAYERS]; /* what each layer has computed */
    ptrdiff_t pixels[SRT_MAX_LAYERS], widths[SRT_MAX_LAYERS], widest = 0;
    for (int k = 0; k < count; ++k) {
        pixels[k] = srt_pixel(layers[k].out, set->lanes);
        widths[k] = srt_chain_width(chain, k, part->w);
        if (pixels[k] > widest) widest = pixels[k];
        rings[k] = memory;
        memory += SRT_READ_DOWN * widths[k] * pixels[k];
    }
    const ptrdiff_t before = srt_chain_excess(count, 0), pitch = widths[0] + 2;
    float *zeros = memory, *input = memory; /* (in, 3, pitch) */
    if (chain->padded) {
        input = zeros + widths[0] * widest;
        memory = input + srt_ceil(3 * in * pitch, set->lanes);
        memset(zeros, 0, (size_t)(memory - zeros) * sizeof(float));
    }
    /* Rows of the first layer; each is a tile ahead of the next. They count from the first row that layer has. */
    for (ptrdiff_t y = 0; y < part->bottom - part->top + SRT_DOWN * last; y += SRT_DOWN) {
        if (*stop) return 1;
        for (ptrdiff_t row = y; row < y + SRT_DOWN; ++row) {
            float *to = rings[0] + row % SRT_READ_DOWN * widths[0] * pixels[0];
            const ptrdiff_t at = part->top + row - (chain->padded ? last : 0);
            if (!chain->padded) {
                set->first(layers, part->source + at * part->pitch, part->plane, part->pitch, to, widths[0], memory);
            } else if (at >= 0 && at < part->h) {
                for (int c = 0; c < in; ++c)
                    for (int i = -1; i < 2; ++i) {
                        float *copy = input + (3 * c + i + 1) * pitch + before + 1;
                        if (at + i >= 0 && at + i < part->h)
                            memcpy(copy, part->source + c * part->plane + (at + i) * part->pitch,
                                   (size_t)part->w * sizeof(float));
                        else
                            memset(copy, 0, (size_t)part->w * sizeof(float));
                    }
                set->first(layers, input, 3 * pitch, pitch, to, widths[0], memory);
                srt_clear(to, before, part->w, widths[0], pixels[0]);
            }
        }
        for (int k = 1; k < count && y >= SRT_DOWN * k; ++k) {
            const ptrdiff_t own = y - SRT_DOWN * k, row = part->top + own - (last - k); /* of the image, if padded */
            if (chain->padded && (row + SRT_DOWN <= 0 || row >= part->h)) continue;
            const int lead = k > 1; /* columns that the layer before has before the first sample */
            const ptrdiff_t excess = srt_chain_excess(count, k), skipped = chain->padded ? excess / SRT_ACROSS : 0;
            const ptrdiff_t start = skipped * SRT_ACROSS, tiles = widths[k] / SRT_ACROSS - 2 * skipped;
            const float *from[SRT_READ_DOWN];
            float *to[SRT_DOWN];
            for (int i = 0; i < SRT_READ_DOWN; ++i) {
                const int outside = chain->padded && (row + i < 1 || row + i > part->h);
                from[i] = outside ? zeros
                                  : rings[k - 1] + ((own + i) % SRT_READ_DOWN * widths[k - 1] + lead + start) * pixels[k - 1];
            }
            for (int i = 0; i < SRT_DOWN; ++i) to[i] = rings[k] + ((own + i) % SRT_READ_DOWN * widths[k] + start) * pixels[k];
            set->chain(layers + k, from, to, tiles, memory);
            for (int i = 0; chain->padded && i < SRT_DOWN; ++i)
                srt_clear(to[i], excess - start, part->w, SRT_ACROSS * tiles, pixels[k]);
        }
        const ptrdiff_t done = y - SRT_DOWN * last;
        if (done < 0) continue;
        const ptrdiff_t left = part->bottom - part->top - done;
        srt_shuffle(chain, part, rings[last] + done % SRT_READ_DOWN * widths[last] * pixels[last],
                    widths[last] * pixels[last], pixels[last], left < SRT_DOWN ? left : SRT_DOWN,
                    chain->added ? part->source + (part->top + done) * part->pitch : NULL,
                    part->target + done * chain->scale * chain->scale * part->w);
    }
    return 0;
}

#endif
