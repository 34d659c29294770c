# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loops of the tiler: extract, stitch, luminance, bicubic. Nothing is checked here.

``srcnn_rt.tiles`` validates shapes, types and indices and allocates; these functions
only loop, without the GIL. Images are (H, W, C) with any strides, windows are
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
    """Return whether R, G, B(, A) or B, G, R lie side by side: one pass then does all channels.

    Planes are done one after the other instead, so that one window is one stream.
    """
    return (channels == 3 or channels == 4) and step == channels and (hop == 1 or hop == -1)


# A block of h rows of w pixels, of one channel or of three or four interleaved ones: sample c
# of a pixel is `hop` samples after the one before it, its float plane begins `plane` floats on.

cdef inline void load(const sample *src, ptrdiff_t src_row, ptrdiff_t step, ptrdiff_t hop, ptrdiff_t channels,
                      float *dst, ptrdiff_t dst_row, ptrdiff_t plane, ptrdiff_t h, ptrdiff_t w,
                      float gain) noexcept nogil:
    if channels > 1 and hop == -1:  # B, G, R in memory: begin at the last channel and go down
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
    """Fill ``out[n]`` with the window whose first sample is ``corners[n] = (y, x)``.

    Coordinates are those of an image of `height` x `width`, mirrored at its edges without
    end, of which `image` is the part that begins at (`top`, `left`). Samples are
    multiplied by `gain`. Writes every element of ``out[:corners.shape[0]]``.
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
            # Rows [up, down) and columns [first, last) of the window lie inside the image.
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
                    for m in range(first + w - last):  # what is left of it, then what is right
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


# Both keep the last four LR rows, spread to HR columns, in a ring: row r in slot r % 4.

def enlarge(
    const float[:, :, :, ::1] windows,
    ptrdiff_t scale,
    const float[:, ::1] taps,
    float[:, ::1] ring,
    float[:, :, :, ::1] out,
):
    """Fill ``out`` (N, C, h·s, w·s) with the bicubic enlargement of (N, C, h + 4, w + 4) windows.

    ``taps[p]`` are the four weights of phase p. `ring` is scratch: (4, at least w·s).
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
    """Put bicubic of the windows plus `detail` into each core's place, as `stitch` does.

    Channel c of `out` is that of channel ``first + c`` of the windows and channel c of `detail`, or its only
    one. ``cores`` are in samples of `detail` and `out`, and multiples of `scale`; the window
    reaches `spare` LR pixels further than what bicubic reads for the detail's own corner.
    `ring` is scratch: (5 a channel, at least the widest core), of one HR row at a time.
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
