"""Weights that a model keeps in a file beside it, as torch's exporter writes them.

Only what such an exporter writes is read: weights of the graph itself, in a regular file of a plain name in
the model's own folder, not through a link, of the declared length. Everything else is left in place, and
`validation` refuses it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
)


def inline_external_data(model: ModelProto, folder: Path, maximum: int) -> bool:
    """Move weights from files beside a model into it, in place.

    Parameters
    ----------
    model : ModelProto
        Changed in place.
    folder : Path
        Folder of the model's file.
    maximum : int
        Bytes that all these weights may have.

    Returns
    -------
    bool
        Whether there were any.

    Raises
    ------
    ModelError
        If such a file is missing or shorter than declared, or the weights are larger than `maximum`.
    """
    found = [(t, place) for t in model.graph.initializer if (place := _place(t)) is not None]
    total = 0
    for tensor, (name, offset, length) in found:
        where = f"weight {tensor.name!r} is kept in {name!r} beside the model"
        try:
            # A pipe must not even be opened. A link created after this check is not followed.
            if not stat.S_ISREG(os.lstat(folder / name).st_mode):
                return False
            descriptor = os.open(folder / name, _FLAGS)
        except FileNotFoundError as error:
            raise ModelError(f"{where}, which is not there") from error
        except (OSError, ValueError):
            return False
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = size - offset if length is None else length
            total += max(length, 0)
            if length < 0 or offset + length > size:
                raise ModelError(
                    f"{where}, which is damaged: {length} bytes from {offset} on are needed, it has {size}"
                )
            if total > maximum:
                raise ModelError(f"weights beside the model may hold at most {maximum} bytes, got {total}")
            file.seek(offset)
            data = file.read(length)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
    return bool(found)


def _place(tensor: TensorProto) -> tuple[str, int, int | None] | None:
    """Return (name, offset, length) of a weight that is kept in a file of a plain name; else None."""
    if tensor.data_location != 1:  # TensorProto.EXTERNAL
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    if name in ("", ".", "..") or set(name) & set("/\\:\0") or len(entries) < len(tensor.external_data):
        return None
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        return None
    return (name, offset, length) if offset >= 0 and (length is None or length >= 0) else None
