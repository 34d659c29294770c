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

int main(int argc, char **argv) {
    file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 2;
    const srt_isa *isa = srt_isas + SRT_ISAS - 1;
    int32_t head[28];
    int failed = 0;
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
        double error = 0, largest = 0;
        for (ptrdiff_t k = 0; k < n.outputs * rows * columns; ++k) {
            const double d = fabs((double)out[k] - expected[k]);
            if (!(d <= error)) error = d;
            if (fabs(expected[k]) > largest) largest = fabs(expected[k]);
        }
        printf("x%d %dx%d %dx%d %d channels: %.1e\n", n.scale, n.k2, n.k2, n.k3, n.k3, n.inputs, error / largest);
        failed |= !(error <= 2e-6 * largest);
    }
    return failed;
}
