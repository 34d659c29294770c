# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Loops of ``srcnn_rt.tiling.kernels``: extract, stitch, luminance and bicubic, without the GIL.

Nothing is checked here: ``tiling.kernels`` validates shapes, types and indices, and allocates. Images are
(H, W, C) with any strides. Windows are (N, C, h, w) float32 and C-contiguous.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.stddef cimport ptrdiff_t

ctypedef fused sample:
    uint8_t
    uint16_t
    float



cdef extern from "rows.h" nogil:
    ptrdiff_t srt_mirror(ptrdiff_t i, ptrdiff_t n)
    void srt_load_u8(const uint8_t *src, ptrdiff_t src_row, ptrdiff_t step, float *dst, ptrdiff_t dst_row,
                      ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load3_u8(const uint8_t *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load4_u8(const uint8_t *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store_u8(const float *src, ptrdiff_t src_row, uint8_t *dst, ptrdiff_t dst_row, ptrdiff_t step,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store3_u8(const float *src, ptrdiff_t src_row, ptrdiff_t plane, uint8_t *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store4_u8(const float *src, ptrdiff_t src_row, ptrdiff_t plane, uint8_t *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load_u16(const uint16_t *src, ptrdiff_t src_row, ptrdiff_t step, float *dst, ptrdiff_t dst_row,
                      ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load3_u16(const uint16_t *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load4_u16(const uint16_t *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store_u16(const float *src, ptrdiff_t src_row, uint16_t *dst, ptrdiff_t dst_row, ptrdiff_t step,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store3_u16(const float *src, ptrdiff_t src_row, ptrdiff_t plane, uint16_t *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store4_u16(const float *src, ptrdiff_t src_row, ptrdiff_t plane, uint16_t *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load_f32(const float *src, ptrdiff_t src_row, ptrdiff_t step, float *dst, ptrdiff_t dst_row,
                      ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load3_f32(const float *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_load4_f32(const float *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t plane,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store_f32(const float *src, ptrdiff_t src_row, float *dst, ptrdiff_t dst_row, ptrdiff_t step,
                       ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store3_f32(const float *src, ptrdiff_t src_row, ptrdiff_t plane, float *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_store4_f32(const float *src, ptrdiff_t src_row, ptrdiff_t plane, float *dst, ptrdiff_t dst_row,
                        ptrdiff_t h, ptrdiff_t w, float gain)
    void srt_luma(const float *r, const float *g, const float *b, float *y, ptrdiff_t n,
                  float wr, float wg, float wb, float offset)


cdef extern from "enlarge.h" nogil:
    ptrdiff_t srt_first(ptrdiff_t p, ptrdiff_t s)
    void srt_spread(const float *src, float *dst, ptrdiff_t n, ptrdiff_t s, const float *taps)
    void srt_blend(const float *a, const float *b, const float *c, const float *d, const float *t,
                   float *dst, ptrdiff_t n)
    void srt_blend_add(const float *a, const float *b, const float *c, const float *d, const float *t,
                       const float *detail, float *dst, ptrdiff_t n)


cdef inline bint interleaved(ptrdiff_t step, ptrdiff_t hop, ptrdiff_t channels) noexcept nogil:
    """Return whether 3 or 4 channels are interleaved, in either order, so that one pass does them all.

    Planes are done one after the other, so that each is read sequentially.
    """
    return (channels == 3 or channels == 4) and step == channels and (hop == 1 or hop == -1)


# Both convert a block of h rows of w pixels, with 1 channel or with 3 or 4 interleaved ones. In the image,
# channels of a pixel are `hop` samples apart; in the window, planes are `plane` floats apart.

cdef inline void load(const sample *src, ptrdiff_t src_row, ptrdiff_t step, ptrdiff_t hop, ptrdiff_t channels,
                      float *dst, ptrdiff_t dst_row, ptrdiff_t plane, ptrdiff_t h, ptrdiff_t w,
                      float gain) noexcept nogil:
    if channels > 1 and hop == -1:  # reversed channels (B, G, R): start at the last one
        src -= channels - 1
        dst += (channels - 1) * plane
        plane = -plane
    if sample is uint8_t:
        if channels == 3:
            srt_load3_u8(src, src_row, dst, dst_row, plane, h, w, gain)
        elif channels == 4:
            srt_load4_u8(src, src_row, dst, dst_row, plane, h, w, gain)
        else:
            srt_load_u8(src, src_row, step, dst, dst_row, h, w, gain)
    elif sample is uint16_t:
        if channels == 3:
            srt_load3_u16(src, src_row, dst, dst_row, plane, h, w, gain)
        elif channels == 4:
            srt_load4_u16(src, src_row, dst, dst_row, plane, h, w, gain)
        else:
            srt_load_u16(src, src_row, step, dst, dst_row, h, w, gain)
    else:
        if channels == 3:
            srt_load3_f32(src, src_row, dst, dst_row, plane, h, w, gain)
        elif channels == 4:
            srt_load4_f32(src, src_row, dst, dst_row, plane, h, w, gain)
        else:
            srt_load_f32(src, src_row, step, dst, dst_row, h, w, gain)


cdef inline void store(const float *src, ptrdiff_t src_row, ptrdiff_t plane, ptrdiff_t channels,
                       sample *dst, ptrdiff_t dst_row, ptrdiff_t step, ptrdiff_t hop, ptrdiff_t h, ptrdiff_t w,
                       float gain) noexcept nogil:
    if channels > 1 and hop == -1:
        dst -= channels - 1
        src += (channels - 1) * plane
        plane = -plane
    if sample is uint8_t:
        if channels == 3:
            srt_store3_u8(src, src_row, plane, dst, dst_row, h, w, gain)
        elif channels == 4:
            srt_store4_u8(src, src_row, plane, dst, dst_row, h, w, gain)
        else:
            srt_store_u8(src, src_row, dst, dst_row, step, h, w, gain)
    elif sample is uint16_t:
        if channels == 3:
            srt_store3_u16(src, src_row, plane, dst, dst_row, h, w, gain)
        elif channels == 4:
            srt_store4_u16(src, src_row, plane, dst, dst_row, h, w, gain)
        else:
            srt_store_u16(src, src_row, dst, dst_row, step, h, w, gain)
    else:
        if channels == 3:
            srt_store3_f32(src, src_row, plane, dst, dst_row, h, w, gain)
        elif channels == 4:
            srt_store4_f32(src, src_row, plane, dst, dst_row, h, w, gain)
        else:
            srt_store_f32(src, src_row, dst, dst_row, step, h, w, gain)


def extract(
    const sample[:, :, :] image,
    ptrdiff_t height,
    ptrdiff_t width,
    ptrdiff_t top,
    ptrdiff_t left,
    const ptrdiff_t[:, ::1] corners,
    float gain,
    float[:, :, :, ::1] out,
):
    """Fill ``out[n]`` with the window whose first sample is at ``corners[n] = (y, x)``.

    Coordinates refer to an image of `height` x `width` that is mirrored at its edges any number of times.
    `image` is the part of it that starts at (`top`, `left`). Samples are multiplied by `gain`. Every element
    of ``out[:corners.shape[0]]`` is written.
    """
    cdef:
        ptrdiff_t count = corners.shape[0]
        ptrdiff_t channels = image.shape[2]
        ptrdiff_t h = out.shape[2]
        ptrdiff_t w = out.shape[3]
        ptrdiff_t plane = h * w
        ptrdiff_t size = <ptrdiff_t>sizeof(sample)
        ptrdiff_t step = image.strides[1] // size
        ptrdiff_t hop = image.strides[2] // size
        bint together = interleaved(step, hop, channels)
        ptrdiff_t passes = 1 if together else channels
        ptrdiff_t width_of_pass = channels if together else 1
        ptrdiff_t pitch = image.strides[0] // size
        ptrdiff_t n, c, k, i, j, m, y, x, up, down, first, last, source
        const sample *row
        float *dst
    with nogil:
        for n in range(count):
            y = corners[n, 0]
            x = corners[n, 1]
            # Rows [up, down) and columns [first, last) of the window are inside the image.
            up = min(max(-y, 0), h)
            down = max(min(height - y, h), up)
            first = min(max(-x, 0), w)
            last = max(min(width - x, w), first)
            for c in range(passes):
                if last > first and down > up:
                    load(&image[y + up - top, x + first - left, c], pitch, step, hop, width_of_pass,
                         &out[n, c, up, first], w, plane, down - up, last - first, gain)
                for i in range(h):
                    row = &image[srt_mirror(y + i, height) - top, 0, c]
                    dst = &out[n, c, i, 0]
                    if last > first and (i < up or i >= down):
                        load(row + (x + first - left) * step, pitch, step, hop, width_of_pass,
                             dst + first, w, plane, 1, last - first, gain)
                    for m in range(first + w - last):  # columns before the image, then after it
                        j = m if m < first else m + last - first
                        source = srt_mirror(x + j, width)
                        for k in range(width_of_pass):
                            dst[j + k * plane] = gain * row[(source - left) * step + k * hop]


def stitch(
    const float[:, :, :, ::1] windows,
    const ptrdiff_t[:, ::1] cores,
    float gain,
    sample[:, :, :] out,
):
    """Copy the core of each window to its place: scale, clip, round half to even, convert.

    ``cores[n] = (from_y, from_x, to_y, to_x, height, width)`` in samples of `windows` and `out`. Integer
    outputs are clipped to [0, gain]; float32 is neither clipped nor rounded.
    """
    cdef:
        ptrdiff_t count = cores.shape[0]
        ptrdiff_t channels = out.shape[2]
        ptrdiff_t plane = windows.shape[2] * windows.shape[3]
        ptrdiff_t size = <ptrdiff_t>sizeof(sample)
        ptrdiff_t step = out.strides[1] // size
        ptrdiff_t hop = out.strides[2] // size
        bint together = interleaved(step, hop, channels)
        ptrdiff_t passes = 1 if together else channels
        ptrdiff_t width_of_pass = channels if together else 1
        ptrdiff_t n, c
    with nogil:
        for n in range(count):
            if cores[n, 4] == 0 or cores[n, 5] == 0:
                continue
            for c in range(passes):
                store(
                    &windows[n, c, cores[n, 0], cores[n, 1]], windows.shape[3], plane, width_of_pass,
                    &out[cores[n, 2], cores[n, 3], c], out.strides[0] // size, step, hop,
                    cores[n, 4], cores[n, 5], gain,
                )


def luma(
    const float[:, :, :, ::1] rgb,
    ptrdiff_t cut,
    float wr, float wg, float wb, float offset,
    float[:, :, :, ::1] out,
):
    """Compute ``out[n, 0] = offset + w · rgb[n]``, without `cut` samples on each side."""
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


# Both keep the last four LR rows, enlarged to HR columns, in a ring buffer: row r is at index r % 4.

def enlarge(
    const float[:, :, :, ::1] windows,
    ptrdiff_t scale,
    const float[:, ::1] taps,
    float[:, ::1] ring,
    float[:, :, :, ::1] out,
):
    """Fill ``out``, (N, C, h·s, w·s), with the bicubic enlargement of windows, (N, C, h + 4, w + 4).

    ``taps[p]`` are the four weights of phase p. `ring` is scratch memory of shape (4, at least w·s).
    """
    cdef:
        ptrdiff_t width = out.shape[3]
        ptrdiff_t n, c, i, q, p, have, at
    with nogil:
        for n in range(out.shape[0]):
            for c in range(out.shape[1]):
                have = 0
                for i in range(out.shape[2]):
                    q = i // scale
                    p = i - q * scale
                    at = q + srt_first(p, scale)
                    while have < at + 4:
                        srt_spread(&windows[n, c, have, 0], &ring[have & 3, 0], width // scale, scale, &taps[0, 0])
                        have += 1
                    srt_blend(
                        &ring[at & 3, 0], &ring[(at + 1) & 3, 0], &ring[(at + 2) & 3, 0], &ring[(at + 3) & 3, 0],
                        &taps[p, 0], &out[n, c, i, 0], width,
                    )


def stitch_sum(
    const float[:, :, :, ::1] windows,
    const float[:, :, :, ::1] detail,
    const ptrdiff_t[:, ::1] cores,
    ptrdiff_t first,
    ptrdiff_t spare,
    ptrdiff_t scale,
    const float[:, ::1] taps,
    float[:, ::1] ring,
    float gain,
    sample[:, :, :] out,
):
    """Stitch the sum of bicubic enlargement of the windows and `detail`, as `stitch` does.

    Channel c of `out` is computed from channel ``first + c`` of the windows and channel c of `detail`, or its
    only channel. ``cores`` are in samples of `detail` and `out`, and multiples of `scale`. A window extends
    `spare` LR pixels beyond what bicubic reads for the first sample of `detail`. `ring` is scratch memory of
    shape (5 per channel, at least the widest core), for one HR row at a time.
    """
    cdef:
        ptrdiff_t channels = out.shape[2]
        ptrdiff_t size = <ptrdiff_t>sizeof(sample)
        ptrdiff_t step = out.strides[1] // size
        ptrdiff_t hop = out.strides[2] // size
        bint together = interleaved(step, hop, channels)
        ptrdiff_t passes = 1 if together else channels
        ptrdiff_t width_of_pass = channels if together else 1
        ptrdiff_t pitch = ring.shape[1]
        ptrdiff_t own = 1 if detail.shape[1] > 1 else 0
        ptrdiff_t n, c, i, q, p, have, at, top, left, width
    with nogil:
        for n in range(cores.shape[0]):
            width = cores[n, 5]
            if width == 0:
                continue
            top = cores[n, 0] // scale + spare
            left = cores[n, 1] // scale + spare
            have = top
            for i in range(cores[n, 4]):
                q = i // scale
                p = i - q * scale
                at = top + q + srt_first(p, scale)
                while have < at + 4:
                    for c in range(channels):
                        srt_spread(&windows[n, first + c, have, left], &ring[4 * c + (have & 3), 0],
                                   width // scale, scale, &taps[0, 0])
                    have += 1
                for c in range(channels):
                    srt_blend_add(
                        &ring[4 * c + (at & 3), 0], &ring[4 * c + ((at + 1) & 3), 0],
                        &ring[4 * c + ((at + 2) & 3), 0], &ring[4 * c + ((at + 3) & 3), 0], &taps[p, 0],
                        &detail[n, own * c, cores[n, 0] + i, cores[n, 1]], &ring[4 * channels + c, 0], width,
                    )
                for c in range(passes):
                    store(&ring[4 * channels + c, 0], 0, pitch, width_of_pass,
                          &out[cores[n, 2] + i, cores[n, 3], c], 0, step, hop, 1, width, gain)
