# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loops of the tiler: extract, stitch, luminance. Nothing is checked here.

``srcnn_rt.tiles`` validates shapes, types and indices and allocates; these functions
only loop, without the GIL. Pictures are (H, W, C) with any strides, windows are
(N, C, h, w) float32 and C-contiguous.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.stddef cimport ptrdiff_t

ctypedef fused sample:
    uint8_t
    uint16_t
    float



cdef extern from "rows.h" nogil:
    void srt_load_u8(const uint8_t *src, ptrdiff_t step, float *dst, ptrdiff_t n, float gain)
    void srt_load_u16(const uint16_t *src, ptrdiff_t step, float *dst, ptrdiff_t n, float gain)
    void srt_load_f32(const float *src, ptrdiff_t step, float *dst, ptrdiff_t n, float gain)
    void srt_store_u8(const float *src, uint8_t *dst, ptrdiff_t step, ptrdiff_t n, float gain)
    void srt_store_u16(const float *src, uint16_t *dst, ptrdiff_t step, ptrdiff_t n, float gain)
    void srt_store_f32(const float *src, float *dst, ptrdiff_t step, ptrdiff_t n, float gain)
    void srt_luma(const float *r, const float *g, const float *b, float *y, ptrdiff_t n,
                  float wr, float wg, float wb, float offset)
    void srt_recolor(float *r, float *g, float *b, const float *y, ptrdiff_t n,
                     float wr, float wg, float wb, float offset, float gain)


cdef inline void load(const sample *src, ptrdiff_t step, float *dst, ptrdiff_t n, float gain) noexcept nogil:
    if sample is uint8_t:
        srt_load_u8(src, step, dst, n, gain)
    elif sample is uint16_t:
        srt_load_u16(src, step, dst, n, gain)
    else:
        srt_load_f32(src, step, dst, n, gain)


cdef inline void store(const float *src, sample *dst, ptrdiff_t step, ptrdiff_t n, float gain) noexcept nogil:
    if sample is uint8_t:
        srt_store_u8(src, dst, step, n, gain)
    elif sample is uint16_t:
        srt_store_u16(src, dst, step, n, gain)
    else:
        srt_store_f32(src, dst, step, n, gain)


def extract(
    const sample[:, :, :] picture,
    const ptrdiff_t[:, ::1] rows,
    const ptrdiff_t[:, ::1] cols,
    const ptrdiff_t[:, ::1] runs,
    float gain,
    float[:, :, :, ::1] out,
):
    """Fill ``out[n, c, i, j] = gain * picture[rows[n, i], cols[n, j], c]`` for every n.

    ``runs[n] = (a, b)``: between a and b the columns are consecutive, so that part is
    converted as one row; what lies outside is mirrored, sample by sample. Writes every
    element of ``out[:rows.shape[0]]``.
    """
    cdef:
        ptrdiff_t count = rows.shape[0]
        ptrdiff_t channels = picture.shape[2]
        ptrdiff_t h = rows.shape[1]
        ptrdiff_t w = cols.shape[1]
        ptrdiff_t step = picture.strides[1] // <ptrdiff_t>sizeof(sample)
        ptrdiff_t n, c, i, j, a, b
        const sample *src
        float *dst
    with nogil:
        for n in range(count):
            a = runs[n, 0]
            b = runs[n, 1]
            for c in range(channels):
                for i in range(h):
                    src = &picture[rows[n, i], 0, c]
                    dst = &out[n, c, i, 0]
                    for j in range(a):
                        dst[j] = gain * src[cols[n, j] * step]
                    if b > a:
                        load(src + cols[n, a] * step, step, dst + a, b - a, gain)
                    for j in range(b, w):
                        dst[j] = gain * src[cols[n, j] * step]


def stitch(
    const float[:, :, :, ::1] windows,
    const ptrdiff_t[:, ::1] cores,
    float gain,
    sample[:, :, :] out,
):
    """Copy each window's core to its place: scale, clip, round half to even, convert.

    ``cores[n] = (from_y, from_x, to_y, to_x, height, width)`` in samples of `windows` and
    `out`. Integer outputs are clipped to [0, gain]; float32 is neither clipped nor rounded.
    """
    cdef:
        ptrdiff_t count = cores.shape[0]
        ptrdiff_t channels = out.shape[2]
        ptrdiff_t step = out.strides[1] // <ptrdiff_t>sizeof(sample)
        ptrdiff_t n, c, i
    with nogil:
        for n in range(count):
            if cores[n, 5] == 0:
                continue
            for c in range(channels):
                for i in range(cores[n, 4]):
                    store(
                        &windows[n, c, cores[n, 0] + i, cores[n, 1]],
                        &out[cores[n, 2] + i, cores[n, 3], c],
                        step, cores[n, 5], gain,
                    )


def luma(
    const float[:, :, :, ::1] rgb,
    ptrdiff_t cut,
    float wr, float wg, float wb, float offset,
    float[:, :, :, ::1] out,
):
    """Fill ``out[n, 0] = offset + w · rgb[n]``, leaving `cut` samples off each side."""
    cdef:
        ptrdiff_t n, i
        ptrdiff_t w = out.shape[3]
    with nogil:
        for n in range(out.shape[0]):
            for i in range(out.shape[2]):
                srt_luma(
                    &rgb[n, 0, i + cut, cut], &rgb[n, 1, i + cut, cut], &rgb[n, 2, i + cut, cut],
                    &out[n, 0, i, 0], w, wr, wg, wb, offset,
                )


def recolor(
    float[:, :, :, ::1] rgb,
    ptrdiff_t cut,
    const float[:, :, :, ::1] y,
    float wr, float wg, float wb, float offset, float gain,
):
    """Add ``gain * (y - offset - w · rgb)`` to R, G and B, in place.

    `y` is `cut` samples smaller on each side; what it does not cover stays as it is.
    """
    cdef:
        ptrdiff_t n, i
        ptrdiff_t w = y.shape[3]
    with nogil:
        for n in range(y.shape[0]):
            for i in range(y.shape[2]):
                srt_recolor(
                    &rgb[n, 0, i + cut, cut], &rgb[n, 1, i + cut, cut], &rgb[n, 2, i + cut, cut],
                    &y[n, 0, i, 0], w, wr, wg, wb, offset, gain,
                )
