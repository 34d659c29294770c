/* SRCNN behind an enlargement: [enlarge s times] -> k x k -> ReLU -> k2 x k2 -> ReLU -> k3 x k3, unpadded, float32.
 *
 * A window is computed in strips of rows, and a strip in blocks of columns, so that the activations of a block stay
 * in the caches. They are stored as [vector of channels][row][column][channels of a vector].
 *
 * First layer. The enlargement is a convolution with a kernel per phase (the place of an HR pixel in its LR pixel), so
 * it and the first layer are one kernel per phase on LR pixels. Two rows by two columns of such outputs are computed
 * at once by the nested fast filter F(2,2) (Winograd, Arithmetic Complexity of Computations, 1980; Parhi, VLSI Digital
 * Signal Processing Systems, 1999, section 9.2): with the even taps A, the odd taps C and B = A + C of a kernel,
 *   y[0] = B * x[1, 3, ...] + A * (x[0] - x[1], x[2] - x[3], ...)
 *   y[1] = B * x[1, 3, ...] - C * (x[1] - x[2], x[3] - x[4], ...)
 * on both axes: 9 kernels of a quarter of the taps in place of 4 whole ones. These are sums and differences only, so
 * integer weights and samples remain exact.
 *
 * Second layer: 1x1 directly; 2x2 to 5x5 by FFTs of 16 x 16 samples (fft16.h), which yield 12 x 12 outputs (tiles, as
 * in overlap-save filtering; Zlateski, Jia, Li and Durand, FFT Convolutions are Faster than Winograd on Modern CPUs,
 * 2018). A tile starts at a multiple of 12 HR pixels from the window's origin, so windows that start at multiples of
 * that agree bit for bit. The rounding error of a sample depends on all 256 samples of its tile, also on those outside
 * its receptive field, so windows must contain these.
 *
 * Last layer: directly, a vector of channels at a time, with one horizontal sum at the end.
 */
#ifndef SRT_SRCNN_H
#define SRT_SRCNN_H

#include <stddef.h>

#define SRT_MAX_SCALE 4
#define SRT_TILE 12       /* outputs of an FFT per side */
#define SRT_FFT 16        /* its samples per side */
#define SRT_SPECTRUM 382  /* places of a spectrum, see fft16.h */
#define SRT_MAX_KERNEL_2 5
#define SRT_MAX_KERNEL_3 5
#define SRT_MAX_N2 64
#define SRT_PASSES 9

/* n1 and n2 are multiples of the lanes. A weight array has an axis of vectors of output channels, v, and one of the
 * lanes of a vector, which is the last. */
typedef struct {
    int scale, inputs, n1, n2, outputs;
    int taps[2][SRT_MAX_SCALE]; /* half of the rows and columns of the first layer's kernel of each phase */
    int k2, k3;
    int low[2][SRT_MAX_SCALE]; /* row and column of a window that the first tap of each phase reads */
    const float *first;        /* for each phase, row by row: (v, pass, inputs, taps, taps, lanes) */
    const float *bias1;        /* (phase, n1) */
    const float *second;       /* 1x1: (v, n1, lanes); otherwise (place, v, n1, lanes) */
    const float *bias2;        /* (n2) */
    const float *last;         /* (outputs, k3, v, k3, lanes): rows, vectors of inputs, columns */
    const float *bias3;        /* (outputs) */
} srt_srcnn;

/* Sizes of the buffers for one window. */
typedef struct {
    ptrdiff_t rows, columns;           /* HR pixels of the result */
    ptrdiff_t height, width;           /* LR rows and columns of a difference plane */
    ptrdiff_t step, ring1, ring2;      /* rows of the second layer per strip, and of both rings */
    ptrdiff_t tiles, batch;            /* FFT tiles per strip, and of them per batch */
    ptrdiff_t block, width1, width2;   /* columns: computed at once, and of both rings' rows */
    ptrdiff_t pitch;                   /* floats between places of the spectra */
    ptrdiff_t planes, first, second, spectra, result; /* floats of the buffers */
} srt_layout;

static inline ptrdiff_t srt_up(ptrdiff_t n, ptrdiff_t step) { return (n + step - 1) / step * step; }

/* pairs: LR columns computed at once, by two; tiles: of a batch, at most. */
static srt_layout srt_srcnn_layout(const srt_srcnn *n, ptrdiff_t rows, ptrdiff_t columns, int lanes, int pairs,
                                   int tiles) {
    const ptrdiff_t pair = 2 * n->scale, block = pairs * pair, inner = columns + n->k3 - 1;
    srt_layout at = {.rows = rows, .columns = columns, .block = block};
    int reach[2] = {0, 0};
    for (int axis = 0; axis < 2; ++axis)
        for (int p = 0; p < n->scale; ++p) {
            const int end = n->low[axis][p] + 2 * n->taps[axis][p];
            if (reach[axis] < end) reach[axis] = end;
        }
    if (n->k2 == 1) {
        at.step = at.ring1 = pair;
        at.width1 = 4 * block;
        at.width2 = srt_up(inner, at.width1);
    } else {
        at.step = SRT_TILE;
        at.ring1 = SRT_FFT + pair;
        at.tiles = (inner + SRT_TILE - 1) / SRT_TILE;
        at.batch = (at.tiles + tiles - 1) / tiles;
        at.batch = (at.tiles + at.batch - 1) / at.batch;
        at.width1 = srt_up(SRT_TILE * at.tiles + SRT_FFT - SRT_TILE, block);
        at.width2 = SRT_TILE * at.tiles;
        at.pitch = at.batch * (n->n1 > n->n2 ? n->n1 : n->n2) + lanes; /* not a power of two, for the caches */
        at.spectra = SRT_SPECTRUM * at.pitch;
    }
    const ptrdiff_t all = srt_up(rows + n->k3 - 1, at.step) + n->k2 - 1;
    at.height = srt_up(all, pair) / n->scale + reach[0];
    at.width = (at.width1 > at.width2 ? at.width1 : at.width2) / n->scale + reach[1];
    at.ring2 = at.step + n->k3 - 1;
    at.width2 += lanes + n->k3;
    at.planes = srt_up(4 * n->inputs * at.height * at.width, lanes);
    at.first = n->n1 * at.ring1 * at.width1;
    at.second = n->n2 * at.ring2 * at.width2;
    at.result = srt_up(columns, lanes);
    return at;
}

static inline ptrdiff_t srt_layout_floats(const srt_layout *at) {
    return at->planes + at->first + at->second + at->spectra + at->result;
}

#endif
