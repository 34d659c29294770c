"""The parts of libjxl that imagecodecs does not show: header, color profile, boxes.

imagecodecs' extension is linked with libjxl, and symbols are looked up through what a library is
linked with, so this is the library that decodes the samples, whatever its file is called.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_size_t, c_uint8, c_uint32, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metadata.header import MAX_BLOCK, DamagedError

_SUCCESS, _NEED_MORE_OUTPUT = 0, 2
_BASIC_INFO, _COLOR_ENCODING = 0x40, 0x100  # events of the decoder
_TARGET_DATA = 1  # the profile of the samples as decoded
_EFFORT = 0  # an encoder's option
_UINT8, _UINT16 = 2, 3
_FROM_CODESTREAM = 1  # how many bits of a sample count
_D65, _SRGB_PRIMARIES, _SRGB_TRANSFER = 1, 1, 13
_GROWTH = 2**20


class _BasicInfo(Structure):
    _fields_ = (
        ("have_container", c_int), ("xsize", c_uint32), ("ysize", c_uint32), ("bits_per_sample", c_uint32),
        ("exponent_bits_per_sample", c_uint32), ("intensity_target", c_float), ("min_nits", c_float),
        ("relative_to_max_display", c_int), ("linear_below", c_float), ("uses_original_profile", c_int),
        ("have_preview", c_int), ("have_animation", c_int), ("orientation", c_int),
        ("num_color_channels", c_uint32), ("num_extra_channels", c_uint32), ("alpha_bits", c_uint32),
        ("alpha_exponent_bits", c_uint32), ("alpha_premultiplied", c_int), ("preview", c_uint32 * 2),
        ("animation", c_uint32 * 4), ("intrinsic", c_uint32 * 2), ("padding", c_uint8 * 100),
    )  # fmt: skip


class _ColorEncoding(Structure):
    _fields_ = (
        ("color_space", c_int), ("white_point", c_int), ("white_point_xy", c_double * 2),
        ("primaries", c_int), ("primaries_xy", c_double * 6), ("transfer_function", c_int),
        ("gamma", c_double), ("rendering_intent", c_int), ("room", c_uint8 * 64),
    )  # fmt: skip


class _PixelFormat(Structure):
    _fields_ = (("channels", c_uint32), ("kind", c_int), ("endianness", c_int), ("align", c_size_t))


class _BitDepth(Structure):
    _fields_ = (("kind", c_int), ("bits", c_uint32), ("exponent_bits", c_uint32))


@dataclass(frozen=True, slots=True)
class BasicInfo:
    """A header: stored size, bits, channels."""

    width: int
    height: int
    bits: int
    float_bits: int
    colors: int
    extra: int
    alpha_bits: int
    premultiplied: bool
    animated: bool


@functools.cache
def _library() -> Any:
    import imagecodecs._jpegxl as extension

    lib = ctypes.CDLL(extension.__file__)
    for name in ("JxlDecoderCreate", "JxlEncoderCreate", "JxlThreadParallelRunnerCreate"):
        getattr(lib, name).restype = c_void_p
    lib.JxlDecoderCreate.argtypes = lib.JxlEncoderCreate.argtypes = [c_void_p]
    lib.JxlEncoderFrameSettingsCreate.restype = c_void_p
    lib.JxlEncoderFrameSettingsCreate.argtypes = [c_void_p, c_void_p]
    lib.JxlThreadParallelRunnerCreate.argtypes = [c_void_p, c_size_t]
    for name in ("JxlDecoderDestroy", "JxlEncoderDestroy", "JxlThreadParallelRunnerDestroy"):
        getattr(lib, name).argtypes = [c_void_p]
        getattr(lib, name).restype = None
    lib.JxlDecoderSubscribeEvents.argtypes = [c_void_p, c_int]
    lib.JxlDecoderSetInput.argtypes = [c_void_p, ctypes.c_char_p, c_size_t]
    lib.JxlDecoderCloseInput.argtypes = [c_void_p]
    lib.JxlDecoderProcessInput.argtypes = [c_void_p]
    lib.JxlDecoderGetBasicInfo.argtypes = [c_void_p, POINTER(_BasicInfo)]
    lib.JxlDecoderGetColorAsEncodedProfile.argtypes = [c_void_p, c_int, POINTER(_ColorEncoding)]
    lib.JxlDecoderGetICCProfileSize.argtypes = [c_void_p, c_int, POINTER(c_size_t)]
    lib.JxlDecoderGetColorAsICCProfile.argtypes = [c_void_p, c_int, c_void_p, c_size_t]
    lib.JxlEncoderSetParallelRunner.argtypes = [c_void_p, c_void_p, c_void_p]
    lib.JxlEncoderInitBasicInfo.argtypes = [POINTER(_BasicInfo)]
    lib.JxlEncoderInitBasicInfo.restype = None
    lib.JxlEncoderSetBasicInfo.argtypes = [c_void_p, POINTER(_BasicInfo)]
    lib.JxlEncoderGetRequiredCodestreamLevel.argtypes = [c_void_p]
    lib.JxlEncoderSetCodestreamLevel.argtypes = [c_void_p, c_int]
    lib.JxlEncoderSetICCProfile.argtypes = [c_void_p, ctypes.c_char_p, c_size_t]
    lib.JxlColorEncodingSetToSRGB.argtypes = [POINTER(_ColorEncoding), c_int]
    lib.JxlColorEncodingSetToSRGB.restype = None
    lib.JxlEncoderSetColorEncoding.argtypes = [c_void_p, POINTER(_ColorEncoding)]
    lib.JxlEncoderFrameSettingsSetOption.argtypes = [c_void_p, c_int, ctypes.c_int64]
    lib.JxlEncoderSetFrameLossless.argtypes = [c_void_p, c_int]
    lib.JxlEncoderSetFrameBitDepth.argtypes = [c_void_p, POINTER(_BitDepth)]
    lib.JxlEncoderSetFrameDistance.argtypes = [c_void_p, c_float]
    lib.JxlEncoderSetExtraChannelDistance.argtypes = [c_void_p, c_size_t, c_float]
    lib.JxlEncoderUseBoxes.argtypes = lib.JxlEncoderCloseInput.argtypes = [c_void_p]
    lib.JxlEncoderAddBox.argtypes = [c_void_p, ctypes.c_char_p, ctypes.c_char_p, c_size_t, c_int]
    lib.JxlEncoderAddImageFrame.argtypes = [c_void_p, POINTER(_PixelFormat), c_void_p, c_size_t]
    lib.JxlEncoderProcessOutput.argtypes = [c_void_p, POINTER(c_void_p), POINTER(c_size_t)]
    return lib


@contextmanager
def _decoder(data: bytes, event: int) -> Iterator[Any]:
    """A decoder that has come to `event` of a file."""
    lib = _library()
    decoder = lib.JxlDecoderCreate(None)
    try:
        if lib.JxlDecoderSubscribeEvents(decoder, event) or lib.JxlDecoderSetInput(decoder, data, len(data)):
            raise DamagedError("its header is not read")
        lib.JxlDecoderCloseInput(decoder)
        if lib.JxlDecoderProcessInput(decoder) != event:
            raise DamagedError("its header does not decode")
        yield decoder
    finally:
        lib.JxlDecoderDestroy(decoder)


def basic_info(data: bytes) -> BasicInfo:
    """Return the header; nothing else is decoded, and the data may end behind it.

    Raises
    ------
    DamagedError
        If there is none.
    """
    raw = _BasicInfo()
    with _decoder(data, _BASIC_INFO) as decoder:
        if _library().JxlDecoderGetBasicInfo(decoder, byref(raw)):
            raise DamagedError("its header does not decode")
    return BasicInfo(
        raw.xsize,
        raw.ysize,
        raw.bits_per_sample,
        raw.exponent_bits_per_sample,
        raw.num_color_channels,
        raw.num_extra_channels,
        raw.alpha_bits,
        bool(raw.alpha_premultiplied),
        bool(raw.have_animation),
    )


def profile(data: bytes) -> bytes | None:
    """Return the profile of the samples as they are decoded; None for sRGB, or if it is damaged."""
    lib, color, size = _library(), _ColorEncoding(), c_size_t()
    try:
        with _decoder(data, _COLOR_ENCODING) as decoder:
            named = lib.JxlDecoderGetColorAsEncodedProfile(decoder, _TARGET_DATA, byref(color)) == _SUCCESS
            known = color.white_point, color.primaries, color.transfer_function
            gray = color.color_space == 1
            wanted = _D65, known[1] if gray else _SRGB_PRIMARIES, _SRGB_TRANSFER
            if named and known == wanted:
                return None
            if lib.JxlDecoderGetICCProfileSize(decoder, _TARGET_DATA, byref(size)):
                return None
            if not 0 < size.value <= MAX_BLOCK:
                return None
            out = ctypes.create_string_buffer(size.value)
            if lib.JxlDecoderGetColorAsICCProfile(decoder, _TARGET_DATA, out, size):
                return None
            return out.raw
    except DamagedError:
        return None


def encode(
    array: NDArray[Any],
    icc: bytes | None,
    named: Mapping[bytes, bytes],
    distance: float,
    effort: int,
    bits: int,
) -> bytes:
    """Encode an (H, W, C) image of uint8 or uint16 samples, C contiguous, 1 to 4 channels.

    Parameters
    ----------
    array : samples; the second or fourth channel is straight alpha
    icc : the profile, None for sRGB
    named : boxes beside the codestream, by type
    distance : 0 for lossless, 1 for what is visually lossless
    effort : 1 (fast) to 10
    bits : of a sample: its largest value is all ones

    Raises
    ------
    DamagedError
        If libjxl refuses, naming the step.
    """
    lib = _library()
    height, width, channels = array.shape
    alpha, colors = channels in (2, 4), 1 if channels < 3 else 3
    raw, color = _BasicInfo(), _ColorEncoding()
    lib.JxlEncoderInitBasicInfo(byref(raw))
    raw.xsize, raw.ysize, raw.num_color_channels = width, height, colors
    raw.bits_per_sample = bits
    raw.num_extra_channels, raw.alpha_bits = int(alpha), raw.bits_per_sample if alpha else 0
    # A lossy image is coded in libjxl's own space, which it enters by the profile.
    raw.uses_original_profile = int(distance == 0)
    layout = _PixelFormat(channels, _UINT16 if array.dtype == np.uint16 else _UINT8, 0, 0)
    encoder, runner = lib.JxlEncoderCreate(None), lib.JxlThreadParallelRunnerCreate(None, threads())

    def step(name: str, *arguments: Any) -> None:
        if getattr(lib, name)(*arguments) != _SUCCESS:
            raise DamagedError(f"{name} failed")

    try:
        run = ctypes.cast(lib.JxlThreadParallelRunner, c_void_p)
        step("JxlEncoderSetParallelRunner", encoder, run, runner)
        step("JxlEncoderSetBasicInfo", encoder, byref(raw))
        if lib.JxlEncoderGetRequiredCodestreamLevel(encoder) == 10:
            step("JxlEncoderSetCodestreamLevel", encoder, 10)
        if icc:
            step("JxlEncoderSetICCProfile", encoder, icc, len(icc))
        else:
            lib.JxlColorEncodingSetToSRGB(byref(color), int(colors == 1))
            step("JxlEncoderSetColorEncoding", encoder, byref(color))
        settings = lib.JxlEncoderFrameSettingsCreate(encoder, None)
        step("JxlEncoderFrameSettingsSetOption", settings, _EFFORT, effort)
        depth = _BitDepth(_FROM_CODESTREAM)
        step("JxlEncoderSetFrameBitDepth", settings, byref(depth))
        if distance == 0:
            step("JxlEncoderSetFrameLossless", settings, 1)
        else:
            step("JxlEncoderSetFrameDistance", settings, distance)
            if alpha:
                step("JxlEncoderSetExtraChannelDistance", settings, 0, 0.0)
        if named:
            step("JxlEncoderUseBoxes", encoder)
        for kind, content in named.items():
            step("JxlEncoderAddBox", encoder, kind, content, len(content), 0)
        step("JxlEncoderAddImageFrame", settings, byref(layout), array.ctypes.data, array.nbytes)
        lib.JxlEncoderCloseInput(encoder)
        return _output(lib, encoder)
    finally:
        lib.JxlEncoderDestroy(encoder)
        lib.JxlThreadParallelRunnerDestroy(runner)


def _output(lib: Any, encoder: Any) -> bytes:
    buffer = ctypes.create_string_buffer(_GROWTH)
    parts = []
    while True:
        place, room = c_void_p(ctypes.addressof(buffer)), c_size_t(_GROWTH)
        status = lib.JxlEncoderProcessOutput(encoder, byref(place), byref(room))
        parts.append(buffer.raw[: _GROWTH - room.value])
        if status == _SUCCESS:
            return b"".join(parts)
        if status != _NEED_MORE_OUTPUT:
            raise DamagedError("JxlEncoderProcessOutput failed")


def threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
