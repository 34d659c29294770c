"""Weights that a model keeps in a file beside it, as torch's exporter writes them, read with care.

Only what such an exporter writes is taken: weights of the graph itself, in a regular file of a plain name in
the model's own folder, reached through no link, of the declared length. Everything else stays where it is,
and `guard` refuses it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto


def inline(model: ModelProto, folder: Path, maximum: int) -> bool:
    """Put weights from files beside a model into it, in place; return whether there were any.

    Parameters
    ----------
    folder : of the model
    most : bytes of all of them

    Raises
    ------
    ModelError
        If such a file is missing, shorter than declared, or all are too large.
    """
    found = [(t, place) for t in model.graph.initializer if (place := _place(t)) is not None]
    total = 0
    for tensor, (name, offset, length) in found:
        try:
            # A pipe must not even be opened; a link that comes in between is not followed.
            if not stat.S_ISREG(os.lstat(folder / name).st_mode):
                return False
            descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | _BINARY)
        except FileNotFoundError as error:
            raise ModelError(
                f"weight {tensor.name!r} is kept in {name!r} beside the model, which is not there"
            ) from error
        except (OSError, ValueError):
            return False
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(file.fileno())
            length = info.st_size - offset if length is None else length
            total += max(length, 0)
            if length < 0 or offset + length > info.st_size:
                raise ModelError(
                    f"weight {tensor.name!r} is kept in {name!r} beside the model, which is damaged: "
                    f"{length} bytes from {offset} on are needed, it has {info.st_size}"
                )
            if total > maximum:
                raise ModelError(f"weights beside the model may hold at most {maximum} bytes, got {total}")
            file.seek(offset)
            data = file.read(length)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data
    return bool(found)


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


def _place(tensor: TensorProto) -> tuple[str, int, int | None] | None:
    """Return (name, offset, length) of a weight that is kept in a file of a plain name; else None."""
    if tensor.data_location != 1:  # TensorProto.EXTERNAL
        return None
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    plain = (
        name not in ("", ".", "..")
        and not set(name) & set("/\\:\0")
        and len(said) == len(tensor.external_data)
    )
    try:
        offset = int(said.get("offset", "0"))
        length = int(said["length"]) if "length" in said else None
    except ValueError:
        return None
    return (name, offset, length) if plain and offset >= 0 and (length is None or length >= 0) else None
