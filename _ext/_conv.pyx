# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Chains of convolutions for ``srcnn_rt.backends.native``, without the GIL. Nothing is checked here."""

from libc.stddef cimport ptrdiff_t

cdef extern from "conv_chain.h" nogil:
    ctypedef struct srt_layer:
        int inputs "in"
        int outputs "out"
        int kernel
        int activation
        const float *weights
        const float *bias
        const float *slope
    ctypedef struct srt_isa:
        const char *name
        int block
    const srt_isa srt_isas[]
    enum:
        SRT_ISAS
        SRT_MAX_LAYERS
    int srt_supported(int isa)
    ptrdiff_t srt_chain_samples(const srt_layer *layers, int count, ptrdiff_t width)
    int srt_chain(int isa, const srt_layer *layers, int count, const float *source, ptrdiff_t plane, ptrdiff_t h,
                  ptrdiff_t w, float *target, ptrdiff_t target_plane, int scale, float *memory,
                  const volatile int *stop)

MAX_LAYERS = SRT_MAX_LAYERS


def instruction_sets():
    """Return the names of the instruction sets of this build that the CPU has, the fastest first, with the
    number of output channels in a block of weights."""
    return {srt_isas[k].name.decode(): srt_isas[k].block for k in range(SRT_ISAS) if srt_supported(k)}


cdef class Chain:
    """Layers with packed weights, which it keeps alive.

    Parameters
    ----------
    isa : str
        One of `instruction_sets`.
    layers : list of (weights, bias, slope, inputs, outputs, kernel, activation)
        See ``srt_layer``; the arrays are float32 and contiguous.
    scale : int
        Block size of the depth-to-space at the end.
    """

    cdef srt_layer layers[SRT_MAX_LAYERS]
    cdef int count, isa, scale
    cdef object arrays

    def __cinit__(self, str isa, list layers, int scale):
        cdef const float[::1] weights, bias, slope
        self.isa = [srt_isas[k].name.decode() for k in range(SRT_ISAS)].index(isa)
        self.scale, self.count, self.arrays = scale, len(layers), layers
        for k, (w, b, a, inputs, outputs, kernel, activation) in enumerate(layers):
            weights, bias, slope = w, b, a
            self.layers[k].weights, self.layers[k].bias, self.layers[k].slope = &weights[0], &bias[0], &slope[0]
            self.layers[k].inputs, self.layers[k].outputs = inputs, outputs
            self.layers[k].kernel, self.layers[k].activation = kernel, activation

    def samples(self, ptrdiff_t width):
        """Return the size of the scratch memory for windows of `width` columns, in floats."""
        return srt_chain_samples(self.layers, self.count, width)

    def run(self, const float[:, :, ::1] source, float[:, :, ::1] target, ptrdiff_t top, ptrdiff_t rows,
            float[::1] memory, const int[::1] stop):
        """Compute the output of input rows ``top`` to ``top + rows`` of one window.

        Parameters
        ----------
        source : (inputs, h, w)
        target : (channels, s·(h - shrink), s·(w - shrink))
        top, rows : int
            `rows` is larger than the shrink.
        memory : at least `samples` zeros
        stop : (1,)
            If it becomes nonzero, the run ends early.

        Returns
        -------
        bool
            Whether it ended early.
        """
        cdef ptrdiff_t h = source.shape[1], w = source.shape[2]
        cdef int ended
        with nogil:
            ended = srt_chain(
                self.isa, self.layers, self.count, &source[0, top, 0], h * w, rows, w,
                &target[0, top * self.scale, 0], target.shape[1] * target.shape[2], self.scale, &memory[0], &stop[0])
        return ended != 0
