"""Deflate for tiles: libdeflate, or Huffman codes alone where there is hardly anything to match.

In differences of neighbouring samples of photographs there is not, and looking for matches takes three
quarters of an encoder's time. Both give the same bytes in every run, as a resumed file needs. ISA-L, which
is as fast, does not: one tile in ten thousand varies between processes.
"""

from __future__ import annotations

from typing import Any

import imagecodecs

from ..._deflate import zlib_encode

LEVEL = 1  # files are nearly as small as they get
PIECES, PIECE = 8, 4096  # of a tile, in bytes, on which both are tried
MAX_SIZE = 1.08  # of Huffman codes alone, of libdeflate's


def deflated(data: Any) -> bytes:
    """Return the zlib stream of a tile, a buffer of bytes; it is about as small as libdeflate's."""
    if len(data) > 2 * PIECES * PIECE:
        step = len(data) // PIECES
        pieces = b"".join(data[at : at + PIECE] for at in range(0, step * PIECES, step))
        if len(zlib_encode(pieces)) <= MAX_SIZE * len(imagecodecs.deflate_encode(pieces, LEVEL)):
            return zlib_encode(data)
    return bytes(imagecodecs.deflate_encode(data, LEVEL))
