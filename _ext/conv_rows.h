/* One output row of an unpadded convolution, for one instruction set. conv_chain.h includes this file several
 * times with
 *   SRT_LANES   floats in a vector
 *   SRT_OB      output channels computed at once: SRT_OB * 3 accumulators, 3 inputs and a weight fill the registers
 *   SRT_TARGET  the function attribute that selects the instruction set
 *   SRT_NAME(x) the name of a function for this instruction set
 *
 * The sum over input channels and taps is in the same order for every sample, whichever of the blocks below computes
 * it, so a sample does not depend on its position in the row: tiled and whole images agree bit for bit.
 */
typedef float SRT_NAME(vec) __attribute__((vector_size(SRT_LANES * 4)));
typedef float SRT_NAME(unaligned) __attribute__((vector_size(SRT_LANES * 4), aligned(4), may_alias));
typedef int32_t SRT_NAME(ivec) __attribute__((vector_size(SRT_LANES * 4)));

/* SRT_OB output channels of `vectors` adjacent vectors. weight: (in, k, k, SRT_OB). */
SRT_TARGET static inline __attribute__((always_inline)) void SRT_NAME(block)(
    const int vectors, const float *const *rows, ptrdiff_t plane, int in, int k, const float *weight,
    const float *bias, const float *slope, int activation, float *out, ptrdiff_t out_plane, int outputs) {
    SRT_NAME(vec) sum[SRT_OB][3];
SRT_UNROLL(16)
    for (int o = 0; o < SRT_OB; ++o)
SRT_UNROLL(3)
        for (int v = 0; v < vectors; ++v) sum[o][v] = (SRT_NAME(vec)){0} + bias[o];
    for (int c = 0; c < in; ++c)
        for (int y = 0; y < k; ++y) {
            const float *source = rows[y] + c * plane;
            for (int x = 0; x < k; ++x, ++source, weight += SRT_OB) {
                SRT_NAME(vec) s[3];
SRT_UNROLL(3)
                for (int v = 0; v < vectors; ++v) s[v] = *(const SRT_NAME(unaligned) *)(source + v * SRT_LANES);
SRT_UNROLL(16)
                for (int o = 0; o < SRT_OB; ++o)
SRT_UNROLL(3)
                    for (int v = 0; v < vectors; ++v) sum[o][v] += s[v] * weight[o];
            }
        }
SRT_UNROLL(16)
    for (int o = 0; o < SRT_OB; ++o) {
        if (o >= outputs) return;
SRT_UNROLL(3)
        for (int v = 0; v < vectors; ++v) {
            SRT_NAME(vec) value = sum[o][v];
            if (activation) {
                /* value < 0 ? slope * value : value, of which one term is 0; not a number remains */
                SRT_NAME(vec) positive = (SRT_NAME(vec))((SRT_NAME(ivec))value & ~(value < 0.0f));
                if (activation == SRT_PRELU) positive += (value - positive) * slope[o];
                value = positive;
            }
            *(SRT_NAME(unaligned) *)(out + o * out_plane + v * SRT_LANES) = value;
        }
    }
}

/* All output channels of a row of `width` samples; up to SRT_LANES - 1 more are written. */
SRT_TARGET static void SRT_NAME(row)(const srt_layer *layer, const float *const *rows, ptrdiff_t plane, float *out,
                                     ptrdiff_t out_plane, ptrdiff_t width) {
    const int k = layer->kernel, in = layer->in;
    for (ptrdiff_t x = 0; x < width; x += 3 * SRT_LANES) {
        const float *at[SRT_MAX_KERNEL];
        for (int y = 0; y < k; ++y) at[y] = rows[y] + x;
        const ptrdiff_t vectors = (width - x + SRT_LANES - 1) / SRT_LANES;
        for (int o = 0; o < layer->out; o += SRT_OB) {
            const float *weight = layer->weights + (ptrdiff_t)o * in * k * k;
            const float *bias = layer->bias + o, *slope = layer->slope + o;
            float *to = out + o * out_plane + x;
            if (vectors >= 3)
                SRT_NAME(block)(3, at, plane, in, k, weight, bias, slope, layer->activation, to, out_plane,
                                layer->out - o);
            else if (vectors == 2)
                SRT_NAME(block)(2, at, plane, in, k, weight, bias, slope, layer->activation, to, out_plane,
                                layer->out - o);
            else
                SRT_NAME(block)(1, at, plane, in, k, weight, bias, slope, layer->activation, to, out_plane,
                                layer->out - o);
        }
    }
}
