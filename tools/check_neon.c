/* Runs networks that check_neon.py has written and prints the largest error of each relative to its largest sample. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "conv_chain.h"

static FILE *file;

static float *floats(size_t count) {
    float *found = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
    if (!found || fread(found, sizeof(float), count, file) != count) exit(2);
    return found;
}

/* Print the error and return whether it is too large. */
static int compare(const char *what, const float *out, const float *expected, ptrdiff_t count) {
    double error = 0, largest = 0;
    for (ptrdiff_t k = 0; k < count; ++k) {
        const double d = fabs((double)out[k] - expected[k]);
        if (!(d <= error)) error = d;
        if (fabs(expected[k]) > largest) largest = fabs(expected[k]);
    }
    printf("%s: %.1e\n", what, error / largest);
    return !(error <= 2e-6 * largest);
}

static int chains(const char *path) {
    file = fopen(path, "rb");
    if (!file) exit(2);
    int32_t head[8], sizes[4];
    int failed = 0;
    while (fread(head, sizeof(int32_t), 8, file) == 8) {
        srt_layer layers[SRT_MAX_LAYERS];
        const srt_chain chain = {layers, head[0], head[1], head[2], head[3]};
        for (int k = 0; k < chain.count; ++k) {
            if (fread(sizes, sizeof(int32_t), 4, file) != 4) exit(2);
            const ptrdiff_t filled = srt_pixel(sizes[1], srt_isas[SRT_ISAS - 1].lanes);
            layers[k] = (srt_layer){.in = sizes[0], .out = sizes[1], .activation = sizes[2]};
            layers[k].weights = floats(sizes[3]);
            layers[k].bias = floats(filled);
            layers[k].slope = floats(filled);
        }
        const ptrdiff_t h = head[4], w = head[5], rows = head[6], columns = head[7];
        const int channels = layers[chain.count - 1].out / (chain.scale * chain.scale);
        const ptrdiff_t count = channels * rows * columns * chain.scale * chain.scale;
        const float *window = floats((size_t)layers->in * h * w), *expected = floats(count);
        const ptrdiff_t size = srt_chain_floats(&chain, SRT_ISAS - 1, columns);
        float *memory = aligned_alloc(64, (size * sizeof(float) + 63) / 64 * 64), *out = malloc(count * sizeof(float));
        memset(memory, 0, size * sizeof(float));
        const ptrdiff_t first = chain.padded ? 0 : srt_chain_excess(chain.count, 0) + 1 - chain.count;
        const srt_part part = {window + first * w, h * w, w, rows, columns, 0, rows, out, count / channels};
        const int stop = 0;
        srt_chain_run(&chain, SRT_ISAS - 1, &part, memory, &stop);
        char what[80];
        snprintf(what, sizeof what, "x%d, %d layers of %d channels%s", chain.scale, chain.count, layers->out,
                 chain.padded ? ", padded" : "");
        failed |= compare(what, out, expected, count);
    }
    fclose(file);
    return failed;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int failed = chains(argv[2]);
    file = fopen(argv[1], "rb");
    if (!file) return 2;
    const srt_isa *isa = srt_isas + SRT_ISAS - 1;
    int32_t head[28];
    while (fread(head, sizeof(int32_t), 28, file) == 28) {
        srt_srcnn n = {.scale = head[0], .inputs = head[1], .n1 = head[2], .n2 = head[3], .outputs = head[4],
                       .k2 = head[5], .k3 = head[6]};
        memcpy(n.low, head + 7, sizeof n.low);
        memcpy(n.taps, head + 15, sizeof n.taps);
        const ptrdiff_t h = head[23], w = head[24], rows = head[25], columns = head[26];
        const size_t phases = (size_t)n.scale * n.scale, places = n.k2 == 1 ? 1 : SRT_SPECTRUM;
        n.first = floats(head[27]);
        n.bias1 = floats(phases * n.n1);
        n.second = floats(places * n.n1 * n.n2);
        n.bias2 = floats(n.n2);
        n.last = floats((size_t)n.outputs * n.k3 * n.k3 * n.n2);
        n.bias3 = floats(n.outputs);
        const float *window = floats((size_t)n.inputs * h * w);
        const float *expected = floats((size_t)n.outputs * rows * columns);
        srt_layout at = srt_srcnn_layout(&n, rows, columns, isa->lanes, isa->pairs, isa->tiles);
        float *memory = aligned_alloc(64, (srt_layout_floats(&at) * sizeof(float) + 63) / 64 * 64);
        float *out = malloc((size_t)n.outputs * rows * columns * sizeof(float));
        memset(memory, 0, srt_layout_floats(&at) * sizeof(float));
        int stop = 0;
        isa->srcnn(&n, &at, window, h * w, h, w, out, rows * columns, columns, memory, &stop);
        char what[80];
        snprintf(what, sizeof what, "x%d %dx%d %dx%d %d channels", n.scale, n.k2, n.k2, n.k3, n.k3, n.inputs);
        failed |= compare(what, out, expected, n.outputs * rows * columns);
    }
    return failed;
}
