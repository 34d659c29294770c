/* A chain of unpadded convolutions with ReLU or PReLU between them, direct, in float32.
 *
 * A window is computed row by row: as soon as the rows that a layer needs are there, it computes its next row, so
 * that the activations of all layers stay in the caches. Every layer keeps its last k rows in a ring. Rows are
 * planar: one run of samples per channel, which are computed a vector at a time.
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
#define SRT_MAX_KERNEL 15
#define SRT_MAX_LAYERS 64
#define SRT_SLACK 16 /* samples after a row that whole vectors may read or write */

typedef struct {
    int in, out, kernel, activation;
    const float *weights; /* (out / OB, in, k, k, OB), filled up with zeros */
    const float *bias;    /* out, filled up to a multiple of OB */
    const float *slope;   /* likewise */
} srt_layer;

typedef void (*srt_row)(const srt_layer *, const float *const *, ptrdiff_t, float *, ptrdiff_t, ptrdiff_t);

#include "instruction_sets.h"

/* Samples of all rings and of the last layer's row, for windows of `width` columns. */
static ptrdiff_t srt_chain_samples(const srt_layer *layers, int count, ptrdiff_t width) {
    const ptrdiff_t pitch = width + SRT_SLACK;
    ptrdiff_t samples = layers[count - 1].out * pitch;
    for (int k = 0; k < count; ++k) samples += layers[k].kernel * layers[k].in * pitch;
    return samples;
}

/* Compute `h` rows of a window: source (in, h, w) -> target (out / s², s * (h - shrink), s * (w - shrink)), whose
 * channels are `plane` and `target_plane` samples apart. memory: srt_chain_samples zeros, or what an earlier run
 * with the same layers and width has left. Returns 1 as soon as `*stop` is not 0. */
static int srt_chain(int isa, const srt_layer *layers, int count, const float *source, ptrdiff_t plane, ptrdiff_t h,
                     ptrdiff_t w, float *target, ptrdiff_t target_plane, int scale, float *memory,
                     const volatile int *stop) {
    const ptrdiff_t pitch = w + SRT_SLACK;
    const srt_layer *last = layers + count - 1;
    float *rings[SRT_MAX_LAYERS]; /* the last rows that came into each layer */
    ptrdiff_t rows[SRT_MAX_LAYERS], out_w = w; /* how many came in */
    for (int k = 0; k < count; ++k) {
        rings[k] = memory;
        rows[k] = 0;
        memory += layers[k].kernel * layers[k].in * pitch;
        out_w -= layers[k].kernel - 1;
    }
    float *result = memory; /* one row of the last layer */
    for (ptrdiff_t y = 0; y < h && !*stop; ++y) {
        for (int c = 0; c < layers->in; ++c)
            memcpy(rings[0] + ((y % layers->kernel) * layers->in + c) * pitch, source + c * plane + y * w,
                   (size_t)w * sizeof(float));
        rows[0] = y + 1;
        ptrdiff_t width = w;
        int k = 0;
        for (; k < count && rows[k] >= layers[k].kernel; ++k) {
            const srt_layer *layer = layers + k;
            const int taps = layer->kernel;
            const float *from[SRT_MAX_KERNEL];
            for (int i = 0; i < taps; ++i)
                from[i] = rings[k] + ((rows[k] - taps + i) % taps) * layer->in * pitch;
            float *out = result;
            if (k + 1 < count) out = rings[k + 1] + (rows[k + 1]++ % layers[k + 1].kernel) * layer->out * pitch;
            width -= taps - 1;
            srt_isas[isa].row(layer, from, pitch, out, pitch, width);
        }
        if (k < count) continue;
        const ptrdiff_t row = rows[count - 1] - last->kernel;
        for (int c = 0; c < last->out / (scale * scale); ++c)
            for (int p = 0; p < scale; ++p) {
                float *to = target + c * target_plane + (row * scale + p) * out_w * scale;
                const float *phase = result + (c * scale + p) * scale * pitch;
                if (scale == 1)
                    memcpy(to, phase, (size_t)out_w * sizeof(float));
                else if (scale == 2) /* a loop that compilers turn into shuffles */
                    for (ptrdiff_t x = 0; x < out_w; ++x) {
                        to[2 * x] = phase[x];
                        to[2 * x + 1] = phase[pitch + x];
                    }
                else
                    for (ptrdiff_t x = 0; x < out_w; ++x)
                        for (int q = 0; q < scale; ++q) to[scale * x + q] = phase[q * pitch + x];
            }
    }
    return *stop != 0;
}

#endif
