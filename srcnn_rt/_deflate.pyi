"""Types of ``_ext/_deflate.pyx``."""

from typing import Any

def zlib_encode(data: Any) -> bytes: ...
