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
    ptrdiff_t srt_mirror(ptrdiff_t i, ptrdiff_t n)
    void srt_load_u8(const uint8_t *, ptrdiff_t, float *, ptrdiff_t, float)
    void srt_load_u16(const uint16_t *, ptrdiff_t, float *, ptrdiff_t, float)
    void srt_load_f32(const float *, ptrdiff_t, float *, ptrdiff_t, float)
    void srt_load3_u8(const uint8_t *, float *, float *, float *, ptrdiff_t, float)
    void srt_load3_u16(const uint16_t *, float *, float *, float *, ptrdiff_t, float)
    void srt_load3_f32(const float *, float *, float *, float *, ptrdiff_t, float)
    void srt_load4_u8(const uint8_t *, float *, float *, float *, float *, ptrdiff_t, float)
    void srt_load4_u16(const uint16_t *, float *, float *, float *, float *, ptrdiff_t, float)
    void srt_load4_f32(const float *, float *, float *, float *, float *, ptrdiff_t, float)
    void srt_store_u8(const float *, uint8_t *, ptrdiff_t, ptrdiff_t, float)
    void srt_store_u16(const float *, uint16_t *, ptrdiff_t, ptrdiff_t, float)
    void srt_store_f32(const float *, float *, ptrdiff_t, ptrdiff_t, float)
    void srt_store3_u8(const float *, const float *, const float *, uint8_t *, ptrdiff_t, float)
    void srt_store3_u16(const float *, const float *, const float *, uint16_t *, ptrdiff_t, float)
    void srt_store3_f32(const float *, const float *, const float *, float *, ptrdiff_t, float)
    void srt_store4_u8(const float *, const float *, const float *, const float *, uint8_t *, ptrdiff_t, float)
    void srt_store4_u16(const float *, const float *, const float *, const float *, uint16_t *, ptrdiff_t, float)
    void srt_store4_f32(const float *, const float *, const float *, const float *, float *, ptrdiff_t, float)
    void srt_luma(const float *r, const float *g, const float *b, float *y, ptrdiff_t n,
                  float wr, float wg, float wb, float offset)
    void srt_recolor(float *r, float *g, float *b, const float *y, ptrdiff_t n,
                     float wr, float wg, float wb, float offset, float gain)


# A row of `channels` channels: sample c of pixel i is src[i * step + c * hop], and its float
# row starts at dst + c * plane. Interleaved RGB and RGBA, in either channel order, are one pass.

cdef inline void load_row(const sample *src, ptrdiff_t step, ptrdiff_t hop, ptrdiff_t channels,
                          float *dst, ptrdiff_t plane, ptrdiff_t n, float gain) noexcept nogil:
    cdef ptrdiff_t c
    cdef bint whole = step == channels and (hop == 1 or hop == -1)
    if whole and hop == -1:  # B, G, R in memory: begin at the last channel and go down
        src -= channels - 1
        dst += (channels - 1) * plane
        plane = -plane
    if whole and channels == 3:
        if sample is uint8_t:
            srt_load3_u8(src, dst, dst + plane, dst + 2 * plane, n, gain)
        elif sample is uint16_t:
            srt_load3_u16(src, dst, dst + plane, dst + 2 * plane, n, gain)
        else:
            srt_load3_f32(src, dst, dst + plane, dst + 2 * plane, n, gain)
        return
    if whole and channels == 4:
        if sample is uint8_t:
            srt_load4_u8(src, dst, dst + plane, dst + 2 * plane, dst + 3 * plane, n, gain)
        elif sample is uint16_t:
            srt_load4_u16(src, dst, dst + plane, dst + 2 * plane, dst + 3 * plane, n, gain)
        else:
            srt_load4_f32(src, dst, dst + plane, dst + 2 * plane, dst + 3 * plane, n, gain)
        return
    if whole and hop == -1:
        hop = 1
    for c in range(channels):
        if sample is uint8_t:
            srt_load_u8(src + c * hop, step, dst + c * plane, n, gain)
        elif sample is uint16_t:
            srt_load_u16(src + c * hop, step, dst + c * plane, n, gain)
        else:
            srt_load_f32(src + c * hop, step, dst + c * plane, n, gain)


cdef inline void store_row(const float *src, ptrdiff_t plane, ptrdiff_t channels,
                           sample *dst, ptrdiff_t step, ptrdiff_t hop, ptrdiff_t n, float gain) noexcept nogil:
    cdef ptrdiff_t c
    cdef bint whole = step == channels and (hop == 1 or hop == -1)
    if whole and hop == -1:
        dst -= channels - 1
        src += (channels - 1) * plane
        plane = -plane
    if whole and channels == 3:
        if sample is uint8_t:
            srt_store3_u8(src, src + plane, src + 2 * plane, dst, n, gain)
        elif sample is uint16_t:
            srt_store3_u16(src, src + plane, src + 2 * plane, dst, n, gain)
        else:
            srt_store3_f32(src, src + plane, src + 2 * plane, dst, n, gain)
        return
    if whole and channels == 4:
        if sample is uint8_t:
            srt_store4_u8(src, src + plane, src + 2 * plane, src + 3 * plane, dst, n, gain)
        elif sample is uint16_t:
            srt_store4_u16(src, src + plane, src + 2 * plane, src + 3 * plane, dst, n, gain)
        else:
            srt_store4_f32(src, src + plane, src + 2 * plane, src + 3 * plane, dst, n, gain)
        return
    if whole and hop == -1:
        hop = 1
    for c in range(channels):
        if sample is uint8_t:
            srt_store_u8(src + c * plane, dst + c * hop, step, n, gain)
        elif sample is uint16_t:
            srt_store_u16(src + c * plane, dst + c * hop, step, n, gain)
        else:
            srt_store_f32(src + c * plane, dst + c * hop, step, n, gain)


def extract(
    const sample[:, :, :] picture,
    ptrdiff_t height,
    ptrdiff_t width,
    ptrdiff_t top,
    ptrdiff_t left,
    const ptrdiff_t[:, ::1] corners,
    float gain,
    float[:, :, :, ::1] out,
):
    """Fill ``out[n]`` with the window whose first sample is ``corners[n] = (y, x)``.

    Coordinates are those of a picture of `height` x `width`, mirrored at its edges without
    end, of which `picture` is the part that begins at (`top`, `left`). Samples are
    multiplied by `gain`. Writes every element of ``out[:corners.shape[0]]``.
    """
    cdef:
        ptrdiff_t count = corners.shape[0]
        ptrdiff_t channels = picture.shape[2]
        ptrdiff_t h = out.shape[2]
        ptrdiff_t w = out.shape[3]
        ptrdiff_t plane = h * w
        ptrdiff_t size = <ptrdiff_t>sizeof(sample)
        ptrdiff_t step = picture.strides[1] // size
        ptrdiff_t hop = picture.strides[2] // size
        ptrdiff_t n, i, j, x, first, last
        const sample *row
        float *dst
    with nogil:
        for n in range(count):
            x = corners[n, 1]
            # Columns [first, last) of the window lie inside the picture.
            first = min(max(-x, 0), w)
            last = max(min(width - x, w), first)
            for i in range(h):
                row = &picture[srt_mirror(corners[n, 0] + i, height) - top, 0, 0]
                dst = &out[n, 0, i, 0]
                for j in range(first):
                    load_row(row + (srt_mirror(x + j, width) - left) * step, step, hop, channels,
                             dst + j, plane, 1, gain)
                if last > first:
                    load_row(row + (x + first - left) * step, step, hop, channels,
                             dst + first, plane, last - first, gain)
                for j in range(last, w):
                    load_row(row + (srt_mirror(x + j, width) - left) * step, step, hop, channels,
                             dst + j, plane, 1, gain)


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
        ptrdiff_t plane = windows.shape[2] * windows.shape[3]
        ptrdiff_t size = <ptrdiff_t>sizeof(sample)
        ptrdiff_t step = out.strides[1] // size
        ptrdiff_t hop = out.strides[2] // size
        ptrdiff_t n, i
    with nogil:
        for n in range(count):
            if cores[n, 5] == 0:
                continue
            for i in range(cores[n, 4]):
                store_row(
                    &windows[n, 0, cores[n, 0] + i, cores[n, 1]], plane, channels,
                    &out[cores[n, 2] + i, cores[n, 3], 0], step, hop, cores[n, 5], gain,
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
