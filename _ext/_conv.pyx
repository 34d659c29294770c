# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The networks of ``srcnn_rt.backends.native``, without the GIL. Nothing is checked here."""

from libc.stddef cimport ptrdiff_t

cdef extern from "conv_chain.h" nogil:
    ctypedef struct srt_layer:
        int inputs "in"
        int outputs "out"
        int activation
        const float *weights
        const float *bias
        const float *slope
    ctypedef struct srt_chain:
        const srt_layer *layers
        int count
        int scale
        int padded
        int added
    ctypedef struct srt_part:
        const float *source
        ptrdiff_t plane
        ptrdiff_t pitch
        ptrdiff_t h
        ptrdiff_t w
        ptrdiff_t top
        ptrdiff_t bottom
        float *target
        ptrdiff_t target_plane
    ctypedef struct srt_srcnn:
        int scale
        int inputs
        int n1
        int n2
        int outputs
        int taps[2][4]
        int k2
        int k3
        int low[2][4]
        const float *first
        const float *bias1
        const float *second
        const float *bias2
        const float *last
        const float *bias3
    ctypedef struct srt_layout:
        pass
    ctypedef int (*srt_window)(const srt_srcnn *, const srt_layout *, const float *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                               float *, ptrdiff_t, ptrdiff_t, float *, const volatile int *)
    ctypedef struct srt_isa:
        const char *name
        int lanes
        int pairs
        int tiles
        srt_window srcnn
    const srt_isa srt_isas[]
    enum:
        SRT_ISAS
        SRT_MAX_LAYERS
        SRT_MAX_N2
    int srt_supported(int isa)
    ptrdiff_t srt_chain_excess(int count, int k)
    ptrdiff_t srt_chain_floats(const srt_chain *chain, int isa, ptrdiff_t width)
    int srt_chain_run(const srt_chain *chain, int isa, const srt_part *part, float *memory, const volatile int *stop)

    srt_layout srt_srcnn_layout(const srt_srcnn *n, ptrdiff_t rows, ptrdiff_t columns, int lanes, int pairs, int tiles)
    ptrdiff_t srt_layout_floats(const srt_layout *at)

MAX_LAYERS = SRT_MAX_LAYERS
MAX_N2 = SRT_MAX_N2


def instruction_sets():
    """Return the instruction sets of this build that the CPU has, the fastest first: their names, with the number of
    lanes in a vector."""
    return {srt_isas[k].name.decode(): srt_isas[k].lanes for k in range(SRT_ISAS) if srt_supported(k)}


cdef int index_of(str isa):
    return [srt_isas[k].name.decode() for k in range(SRT_ISAS)].index(isa)


cdef class Chain:
    """Layers with packed weights, which it keeps alive; see ``conv_chain.h``.

    Parameters
    ----------
    isa : str
        One of `instruction_sets`.
    layers : list of (weights, bias, slope, inputs, outputs, activation)
        See ``srt_layer``; the arrays are float32 and contiguous, each at an address that is a multiple of a vector.
    scale : int
        Block size of the depth-to-space at the end.
    padded, added : bool
        See ``srt_chain``.

    Attributes
    ----------
    margin : int
        LR pixels around the tile of a window, which has a multiple of 2 rows and of 4 columns; 0 if the layers pad.
    """

    cdef srt_layer layers[SRT_MAX_LAYERS]
    cdef srt_chain chain
    cdef int isa
    cdef object arrays
    cdef readonly int margin

    def __cinit__(self, str isa, list layers, int scale, bint padded, bint added):
        cdef const float[::1] weights, bias, slope
        self.isa, self.arrays = index_of(isa), layers
        for k, (w, b, a, inputs, outputs, activation) in enumerate(layers):
            weights, bias, slope = w, b, a
            self.layers[k].weights, self.layers[k].bias, self.layers[k].slope = &weights[0], &bias[0], &slope[0]
            self.layers[k].inputs, self.layers[k].outputs = inputs, outputs
            self.layers[k].activation = activation
        self.chain.layers, self.chain.count, self.chain.scale = self.layers, <int>len(layers), scale
        self.chain.padded, self.chain.added = padded, added
        self.margin = 0 if padded else 1 + <int>srt_chain_excess(self.chain.count, 0)

    def samples(self, ptrdiff_t rows, ptrdiff_t width):
        """Return the size of the scratch memory for windows of `width` columns, in floats."""
        return srt_chain_floats(&self.chain, self.isa, width - 2 * self.margin)

    def run(self, const float[:, :, ::1] source, float[:, :, ::1] target, ptrdiff_t top, ptrdiff_t rows,
            float[::1] memory, const int[::1] stop):
        """Compute the output of input rows ``top`` to ``top + rows`` of one window.

        Parameters
        ----------
        source : (inputs, h, w)
        target : (channels, s·(h - 2·margin), s·(w - 2·margin))
        top, rows : int
            `top` is a multiple of 2, and so is ``rows - 2·margin`` except at the end of a window.
        memory : at least `samples`, at a multiple of a vector
        stop : (1,)
            If it becomes nonzero, the run ends early.

        Returns
        -------
        bool
            Whether it ended early.
        """
        cdef ptrdiff_t h = source.shape[1], w = source.shape[2], around = 2 * self.margin
        cdef srt_part part
        cdef int ended
        part.plane, part.pitch, part.h, part.w = h * w, w, h - around, w - around
        part.top, part.bottom = top, top + rows - around
        part.source = &source[0, 0 if self.chain.padded else self.margin - self.chain.count, 0]
        part.target, part.target_plane = &target[0, top * self.chain.scale, 0], target.shape[1] * target.shape[2]
        with nogil:
            ended = srt_chain_run(&self.chain, self.isa, &part, &memory[0], &stop[0])
        return ended != 0


cdef class Srcnn:
    """SRCNN behind an enlargement, with packed weights, which it keeps alive; see ``srcnn.h``.

    Parameters
    ----------
    isa : str
        One of `instruction_sets`.
    margin : int
        LR pixels around the tile of a window.
    inputs : int
        Channels.
    low, taps : (2, scale)
        Row and column of a window that the first tap of each phase reads, and half of the sides of its kernel.
    first, bias1, second, bias2, last, bias3 : float32, contiguous
        The arrays of ``srt_srcnn``, each at an address that is a multiple of a vector.
    """

    cdef srt_srcnn net
    cdef int isa, margin
    cdef object arrays

    def __cinit__(self, str isa, int margin, int inputs, const int[:, ::1] low, const int[:, ::1] taps,
                  const float[::1] first, const float[:, ::1] bias1, const float[:, :, :, ::1] second, const float[::1] bias2,
                  const float[:, :, :, :, ::1] last, const float[::1] bias3):
        cdef srt_srcnn *n = &self.net
        self.isa, self.margin = index_of(isa), margin
        self.arrays = (first, bias1, second, bias2, last, bias3)
        n.scale, n.inputs = <int>low.shape[1], inputs
        n.n1, n.n2, n.outputs = <int>bias1.shape[1], <int>bias2.shape[0], <int>bias3.shape[0]
        n.k3 = <int>last.shape[1]
        n.k2 = 1 if second.shape[0] == 1 else 5
        for axis in range(2):
            for phase in range(n.scale):
                n.low[axis][phase], n.taps[axis][phase] = low[axis, phase], taps[axis, phase]
        n.first, n.bias1, n.second = &first[0], &bias1[0, 0], &second[0, 0, 0, 0]
        n.bias2, n.last, n.bias3 = &bias2[0], &last[0, 0, 0, 0, 0], &bias3[0]

    cdef srt_layout layout(self, ptrdiff_t rows, ptrdiff_t columns) noexcept nogil:
        cdef const srt_isa *isa = &srt_isas[self.isa]
        return srt_srcnn_layout(&self.net, (rows - 2 * self.margin) * self.net.scale,
                                (columns - 2 * self.margin) * self.net.scale, isa.lanes, isa.pairs, isa.tiles)

    def samples(self, ptrdiff_t rows, ptrdiff_t width):
        """Return the size of the scratch memory for `rows` rows of `width` columns of a window, in floats."""
        cdef srt_layout at = self.layout(rows, width)
        return srt_layout_floats(&at)

    def run(self, const float[:, :, ::1] source, float[:, :, ::1] target, ptrdiff_t top, ptrdiff_t rows,
            float[::1] memory, const int[::1] stop):
        """Compute the output of input rows ``top`` to ``top + rows`` of one window; see `Chain.run`.

        `memory` starts at a multiple of a vector.
        """
        cdef ptrdiff_t h = source.shape[1], w = source.shape[2]
        cdef srt_layout at = self.layout(rows, w)
        cdef int ended
        with nogil:
            ended = srt_isas[self.isa].srcnn(
                &self.net, &at, &source[0, top, 0], h * w, h - top, w, &target[0, top * self.net.scale, 0],
                target.shape[1] * target.shape[2], target.shape[2], &memory[0], &stop[0])
        return ended != 0
