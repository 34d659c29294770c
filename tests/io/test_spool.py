"""Collecting samples in a file until the image can be encoded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srcnn_rt import OutputError
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io import spool
from srcnn_rt.io.spool import SpoolTarget
from srcnn_rt.tiling.geometry import Span
from tests.helpers.faults import disk_of

INFO = ImageInfo((30, 50), Layout.of(3), np.dtype(np.uint16))
SIZE = 30 * 50 * 3 * 2
ROWS = [Span(0, 10), Span(10, 20), Span(20, 30)]
ALL = Span(0, 50)


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MIN_BYTES", 0)


@pytest.fixture
def image(rng: np.random.Generator) -> NDArray[np.uint16]:
    return rng.integers(1, 2**16, (30, 50, 3), dtype=np.uint16)


def raw(array: NDArray[Any]) -> bytes:
    return array.tobytes()


def target(path: Path, encode: Callable[[NDArray[Any]], Any] = raw, *, resume: bool = False) -> SpoolTarget:
    return SpoolTarget(path, INFO, encode, resume=resume)


def fill(made: SpoolTarget, image: NDArray[np.uint16], rows: list[Span]) -> list[dict[str, Any]]:
    records = []
    for y in rows:
        made.buffer(y, ALL)[...] = image[y.start : y.stop]
        records.append(made.write(y, ALL, made.buffer(y, ALL)))
    return records


def test_what_is_written_is_encoded(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    made = target(tmp_path / "p")
    fill(made, image, ROWS)
    done = made.finish()
    assert done.read_bytes() == image.tobytes()
    assert done.parent.parent == tmp_path
    made.abort()  # after the end too


def test_it_is_gone_on_with(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    made = target(tmp_path / "p")
    records = fill(made, image, ROWS[:2])
    made.sync()
    made.abort()
    again = target(tmp_path / "p", resume=True)
    for y, record in zip(ROWS[:2], records, strict=True):
        assert again.restore(y, ALL, record, check=True)
    again.rewind()
    fill(again, image, ROWS[2:])
    assert again.finish().read_bytes() == image.tobytes()


@pytest.mark.parametrize("at", [0, 299, 2999])
def test_a_damaged_chunk_is_noticed(tmp_path: Path, image: NDArray[np.uint16], at: int) -> None:
    made = target(tmp_path / "p")
    records = fill(made, image, ROWS)
    made.abort()
    with (tmp_path / "p").open("r+b") as file:
        file.seek(3000 + at)
        byte = file.read(1)
        file.seek(3000 + at)
        file.write(bytes([byte[0] ^ 1]))
    again = target(tmp_path / "p", resume=True)
    found = [again.restore(y, ALL, record, check=True) for y, record in zip(ROWS, records, strict=True)]
    assert found == [True, False, True]
    assert again.restore(ROWS[1], ALL, records[1], check=False)  # as the disk has it, says the journal
    again.abort()


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_is_not_taken(tmp_path: Path, image: NDArray[np.uint16], size: int) -> None:
    """Even if the journal says that it is on the disk."""
    made = target(tmp_path / "p")
    records = fill(made, image, ROWS)
    made.abort()
    os.truncate(tmp_path / "p", size)
    again = target(tmp_path / "p", resume=True)
    assert not any(again.restore(y, ALL, r, check=False) for y, r in zip(ROWS, records, strict=True))
    assert (tmp_path / "p").stat().st_size == SIZE
    again.abort()


@pytest.mark.parametrize(
    "record", [{}, {"crc": None}, {"crc": "1"}, {"crc": -1}, {"crc": 2**70}, {"crc": []}]
)
def test_hostile_records(tmp_path: Path, image: NDArray[np.uint16], record: dict[str, Any]) -> None:
    made = target(tmp_path / "p")
    fill(made, image, ROWS)
    made.abort()
    again = target(tmp_path / "p", resume=True)
    assert not again.restore(ROWS[0], ALL, record, check=True)
    again.abort()


def test_a_new_one_is_empty(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    """Samples that another job left in the file do not appear in the result."""
    (tmp_path / "p").write_bytes(b"\xff" * 2 * SIZE)
    made = target(tmp_path / "p")
    assert not made.buffer(ROWS[0], ALL).any()
    assert (tmp_path / "p").stat().st_size == SIZE
    made.abort()


def test_its_space_is_taken_at_once(tmp_path: Path) -> None:
    """A full disk is an error at once; later it would be a signal that ends the process."""
    made = target(tmp_path / "p")
    assert (tmp_path / "p").stat().st_blocks * 512 >= SIZE
    made.abort()
    (tmp_path / "p").unlink()
    with disk_of(SIZE - 1), pytest.raises(OutputError, match="p: cannot be written: File too large"):
        target(tmp_path / "p")


def test_a_full_disk_while_encoding_loses_nothing(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    made = target(tmp_path / "p", lambda array: array.tobytes() * 3)
    records = fill(made, image, ROWS)
    with disk_of(2 * SIZE), pytest.raises(OutputError, match="p: cannot be written: File too large"):
        made.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    made.abort()
    again = target(tmp_path / "p", resume=True)
    assert all(again.restore(y, ALL, r, check=True) for y, r in zip(ROWS, records, strict=True))
    assert again.finish().read_bytes() == image.tobytes()


@pytest.mark.parametrize("error", [OutputError("p: too wide"), MemoryError(), KeyboardInterrupt()])
def test_an_encoder_that_fails(tmp_path: Path, image: NDArray[np.uint16], error: BaseException) -> None:
    def fails(array: NDArray[Any]) -> bytes:
        raise error

    made = target(tmp_path / "p", fails)
    fill(made, image, ROWS)
    with pytest.raises(type(error)):
        made.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    made.abort()


def test_nobody_writes_into_what_is_let_go(tmp_path: Path) -> None:
    made = target(tmp_path / "p")
    seen = made.buffer(ROWS[0], ALL)
    made.abort()
    made.abort()
    seen[...] = 1  # a worker that was not told yet: its memory is still there
    with pytest.raises(OutputError, match="p: cannot be written: it is closed"):
        made.buffer(ROWS[0], ALL)


def test_small_images_stay_in_memory(
    tmp_path: Path, image: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MIN_BYTES", SIZE + 1)
    made = target(tmp_path / "p")
    records = fill(made, image, ROWS)
    assert (tmp_path / "p").stat().st_size == 0
    made.sync()
    made.abort()
    again = target(tmp_path / "p", resume=True)
    assert not any(again.restore(y, ALL, r, check=False) for y, r in zip(ROWS, records, strict=True))
    fill(again, image, ROWS)
    assert again.finish().read_bytes() == image.tobytes()
