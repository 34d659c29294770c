"""Deflate of our own: every decoder reads it, and it is as short as Huffman codes can be."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from srcnn_rt._deflate import zlib_encode
from srcnn_rt.io.tiff import deflate
from srcnn_rt.io.tiff.writer import coded_tile
from tests.conftest import drawing
from tests.helpers.reference import quantise

RNG = np.random.default_rng(0)
BLOCK = 65535
SIZES = [0, 1, 2, 3, 5, 258, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7]


def fibonacci(symbols: int) -> bytes:
    """Bytes whose best code is as long as there are symbols, far beyond what is allowed."""
    counts, last = [1, 1], (1, 1)
    while len(counts) < symbols:
        last = last[1], sum(last)
        counts.append(last[1])
    data = np.repeat(np.arange(symbols, dtype=np.uint8), counts)
    return RNG.permutation(data).tobytes()


KINDS = {
    "zeros": lambda n: bytes(n),
    "noise": lambda n: RNG.integers(0, 256, n, dtype=np.uint8).tobytes(),
    "differences": lambda n: RNG.laplace(0, 4, n).astype(np.int8).tobytes(),
    "two values": lambda n: RNG.integers(0, 2, n, dtype=np.uint8).tobytes(),
    "all values": lambda n: (np.arange(n) % 256).astype(np.uint8).tobytes(),
    "rare": lambda n: RNG.geometric(0.5, n).clip(0, 255).astype(np.uint8).tobytes(),
}


def decoded(stream: bytes) -> bytes:
    """What zlib and libdeflate read, which must agree and find nothing after the end."""
    reader = zlib.decompressobj()
    data = reader.decompress(stream)
    assert reader.eof and not reader.unused_data
    assert bytes(imagecodecs.deflate_decode(stream, out=len(data) or 1)) == data
    return data


def zlibs(data: bytes) -> bytes:
    """The stream of zlib's Huffman codes without matches."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return encoder.compress(data) + encoder.flush()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_decoders_read_it(kind: str, size: int) -> None:
    data = KINDS[kind](size)
    assert decoded(zlib_encode(data)) == data


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=3000), times=st.integers(1, 40))
@example(data=b"", times=1)
def test_any_bytes(data: bytes, times: int) -> None:
    assert decoded(zlib_encode(data * times)) == data * times


@pytest.mark.parametrize("symbols", [15, 16, 18, 21])
def test_codes_that_would_be_too_long(symbols: int) -> None:
    data = fibonacci(symbols)
    stream = zlib_encode(data)
    assert decoded(stream) == data
    assert len(stream) <= 1.001 * len(zlibs(data))


def test_it_is_no_longer_than_zlibs_huffman_codes() -> None:
    for kind in ("differences", "two values", "rare"):
        data = KINDS[kind](10 * BLOCK)
        assert len(zlib_encode(data)) < 1.003 * len(zlibs(data))
    noise = KINDS["noise"](10 * BLOCK)
    assert len(zlib_encode(noise)) < len(noise) + 70


def test_the_same_bytes_from_any_thread() -> None:
    data = KINDS["differences"](300_000)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(zlib_encode, [data] * 40))) == 1


def test_memory_that_is_not_bytes() -> None:
    data = KINDS["differences"](1000)
    assert zlib_encode(np.frombuffer(data, np.uint8)) == zlib_encode(bytearray(data)) == zlib_encode(data)
    with pytest.raises((ValueError, BufferError)):
        zlib_encode(np.zeros(10, np.uint8)[::2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("shape", [(5, 1, 3), (64, 48, 1), (256, 256, 3)])
def test_the_predictor_is_the_standards(dtype: str, shape: tuple[int, ...]) -> None:
    info = np.iinfo(dtype)
    samples = RNG.integers(info.min, info.max, shape, dtype, endpoint=True)
    data = zlib.decompress(coded_tile(samples, "deflate"))
    differences = np.frombuffer(data, dtype).reshape(shape)
    assert np.array_equal(imagecodecs.delta_decode(differences, axis=-2), samples)


def test_tiles_are_hardly_longer_than_libdeflates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs take codes alone; text, blank pages and gray stored as RGB take matches."""
    used: list[int] = []
    monkeypatch.setattr(deflate, "zlib_encode", lambda data: used.append(len(data)) or zlib_encode(data))
    photo = quantise(drawing(512, 512, 3) + RNG.normal(0, 0.02, (512, 512, 3)), np.uint8)
    page = np.kron(RNG.random((64, 64)) < 0.2, np.ones((8, 8)))[..., None].astype(np.uint8) * 255
    for name, tile in {
        "photo": photo,
        "page": page,
        "blank": np.full((512, 512, 3), 255, np.uint8),
        "gray": photo[..., :1].repeat(3, axis=2),
        "noise of 16 bits": RNG.integers(0, 3000, (512, 512, 3), np.uint16),
        "half a photo": np.where(np.arange(512)[:, None, None] < 256, photo, 0).astype(np.uint8),
    }.items():
        used.clear()
        made = coded_tile(tile, "deflate")
        assert (tile.nbytes in used) == (name in ("photo", "noise of 16 bits")), name
        differences = imagecodecs.delta_encode(np.ascontiguousarray(tile), axis=-2)
        assert len(made) < 1.1 * len(imagecodecs.deflate_encode(differences.tobytes(), 1)), name
