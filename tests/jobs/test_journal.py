"""The journal by itself: what it says survives any cut, any damage and any other process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt import ImageError, OutputError, SourceMissingError
from srcnn_rt.jobs.journal import Journal, fingerprint, line_of

JOB = {"model": "m", "source": {"size": 7, "hash": "x"}, "scale": 2}
PLANS = [[8, 8, 16, 64], [4, 4, 16, 16]]
KEYS = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def written(path: Path, *, synced: int | None = None, made: bool = False) -> bytes:
    """Write a journal of five chunks on two pages and return its bytes."""
    journal = Journal(path)
    journal.start(JOB)
    journal.set_plans(PLANS)
    for number, (page, chunk) in enumerate(KEYS):
        journal.add(page, chunk, {"at": 10 * number})
        if synced == number:
            journal.mark_synced()
    if made:
        journal.set_made({"size": 1})
    journal.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path / "j", synced=2, made=True)
    journal = Journal(tmp_path / "j")
    assert not journal.empty
    assert list(journal.done) == KEYS
    assert journal.done[1, 0]["at"] == 20
    assert journal.plans == PLANS
    assert [journal.is_synced(*key) for key in KEYS] == [True, True, True, False, False]
    assert journal.made == {"size": 1}
    assert journal.difference(JOB) is None
    journal.close()
    journal.close()


def test_a_new_one_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.empty
    assert (tmp_path / "j").read_bytes() == b""
    journal.close()


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """What is left is every whole line before the cut, and going on puts no line behind half a one."""
    whole = written(tmp_path / "j", synced=2)
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) + 1):
        (tmp_path / "j").write_bytes(whole[:cut])
        kept, rest = [], whole[:cut]
        for line in lines:
            if not rest.startswith(line):
                break
            kept.append(line)
            rest = rest[len(line) :]
        count = sum(b'"chunk"' in line for line in kept)
        journal = Journal(tmp_path / "j")
        assert journal.empty == (not kept)
        assert list(journal.done) == KEYS[:count]
        assert sum(journal.is_synced(*key) for key in KEYS) == (3 if any(b"synced" in k for k in kept) else 0)
        journal.keep(KEYS[:count])
        if len(kept) > 1 and count < 5:
            journal.add(*KEYS[count], {"again": True})
        journal.close()
        expected = kept + ([line_of({"page": KEYS[count][0], "chunk": KEYS[count][1], "again": True})]
                           if len(kept) > 1 and count < 5 else [])  # fmt: skip
        assert (tmp_path / "j").read_bytes() == b"".join(expected)


def test_keeping_less(tmp_path: Path) -> None:
    """Chunks beyond what was restored are forgotten; and what was synced before them is not."""
    for count in range(6):
        written(tmp_path / "j", synced=3)
        journal = Journal(tmp_path / "j")
        journal.keep(KEYS[:count])
        journal.close()
        again = Journal(tmp_path / "j")
        assert list(again.done) == KEYS[:count]
        assert again.plans == PLANS
        assert sum(again.is_synced(*key) for key in KEYS) == (4 if count >= 4 else 0)
        again.close()


def test_beginning_anew(tmp_path: Path) -> None:
    written(tmp_path / "j", synced=3, made=True)
    journal = Journal(tmp_path / "j")
    journal.start({"other": 1})
    journal.keep(())
    journal.set_plans([[1, 1, 1, 1]])
    journal.close()
    again = Journal(tmp_path / "j")
    assert (list(again.done), again.plans, again.made, again.is_synced(0, 0)) == (
        [],
        [[1, 1, 1, 1]],
        None,
        False,
    )
    again.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 5000,
        b"hello\n",
        b"{}\n" * 9,
        b"\xff\xfe" * 99 + b"\n",
        line_of({"job": []}),
        line_of({"job": {}}),
        line_of({"job": [[1, 2]]}),
        line_of({"plans": []}),
        line_of({"job": None}),
        b"00000000 " + b"[" * 10**5 + b"\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_garbage_is_empty(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "j").write_bytes(garbage)
    journal = Journal(tmp_path / "j")
    assert journal.empty
    assert not journal.done
    journal.close()


def test_deep_nesting_ends_the_reading(tmp_path: Path) -> None:
    import zlib

    text = b'{"page":' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    whole = written(tmp_path / "j")
    (tmp_path / "j").write_bytes(whole + b"%08x %s\n" % (zlib.crc32(text), text))
    journal = Journal(tmp_path / "j")
    assert list(journal.done) == KEYS
    journal.close()


@pytest.mark.parametrize(
    "key",
    [(2, 0), (3, 0), (0, 0), (1, 2), (-1, 0), (0, -1), (True, 0), (0, True), (1.0, 3), ("1", 3), (None, 3)],
)
def test_invalid_and_repeated_chunks_are_not_taken(tmp_path: Path, key: tuple[Any, Any]) -> None:
    whole = written(tmp_path / "j")
    lines = [line_of({"page": key[0], "chunk": key[1]}), line_of({"synced": True})]
    (tmp_path / "j").write_bytes(whole + b"".join(lines))
    journal = Journal(tmp_path / "j")
    assert list(journal.done) == KEYS
    assert not journal.is_synced(0, 0)
    journal.close()


@settings(max_examples=50, deadline=None)
@given(keys=st.permutations(KEYS), synced=st.integers(0, 5), kept=st.sets(st.sampled_from(KEYS)))
def test_chunks_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[int, int]], synced: int, kept: set[Any]
) -> None:
    """Any subset can be kept; what follows the first forgotten chunk is no longer known to be synced."""
    path = tmp_path_factory.mktemp("order") / "j"
    journal = Journal(path)
    journal.start(JOB)
    journal.set_plans(PLANS)
    for number, key in enumerate(keys):
        journal.add(*key, {"at": 7 * number})
        if number == synced - 1:
            journal.mark_synced()
    journal.close()
    journal = Journal(path)
    assert list(journal.done) == keys
    assert [journal.is_synced(*key) for key in keys] == [k < synced for k in range(5)]
    journal.keep(kept)
    journal.close()
    again = Journal(path)
    assert list(again.done) == [key for key in keys if key in kept]
    assert all(again.done[key]["at"] == 7 * keys.index(key) for key in kept)
    known = {key for k, key in enumerate(keys) if k < synced and set(keys[:synced]) <= kept}
    assert {key for key in KEYS if again.is_synced(*key)} == known
    again.close()


@settings(max_examples=200, deadline=None)
@given(at=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: float, bit: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "j"
    whole = bytearray(written(path, synced=2))
    place = int(at * len(whole))
    line = whole[:place].count(b"\n")
    whole[place] ^= 1 << bit
    path.write_bytes(whole)
    journal = Journal(path)
    assert len(journal.done) <= max(0, line - 2)
    assert all(journal.done[key]["at"] == 10 * k for k, key in enumerate(journal.done))
    journal.close()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**JOB, "scale": 3}, "the scale differs: 2 in the journal, 3 now"),
        ({**JOB, "more": 1}, "the more differs: null in the journal, 1 now"),
        ({"model": "m", "scale": 2}, "the source differs"),
        (
            {**JOB, "source": {"size": 8, "hash": "x"}},
            "the size of the source differs: 7 in the journal, 8 now",
        ),
        ({**JOB, "model": "x" * 500}, "the model differs: m in the journal, " + "x" * 60 + " now"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    written(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    assert words in (journal.difference(other) or "")
    journal.close()


def test_a_job_is_compared_as_json_says_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.start({"sizes": (1, 2)})
    journal.close()
    journal = Journal(tmp_path / "j")
    assert journal.difference({"sizes": (1, 2)}) is None
    journal.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    with pytest.raises(OutputError, match="j: another process is writing this result"):
        Journal(tmp_path / "j")
    first.close()
    Journal(tmp_path / "j").close()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("srcnn_rt._system.file_lock.fcntl.flock", no_locks)
    assert written(tmp_path / "j")


@pytest.mark.parametrize("after", [0, 40, 200, 300])
def test_a_full_disk(tmp_path: Path, after: int) -> None:
    from tests.helpers.faults import disk_of

    with disk_of(after), pytest.raises(OutputError, match="j: cannot be written: File too large"):
        written(tmp_path / "j")


def test_a_disk_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fails)
    with pytest.raises(OutputError, match="j: cannot be read: Input/output error"):
        Journal(tmp_path / "j")


def test_lines_are_json_that_people_can_read(tmp_path: Path) -> None:
    for line in written(tmp_path / "j").splitlines():
        assert isinstance(json.loads(line[9:]), dict)


def test_a_file_is_told_from_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    seen = []
    for data in (
        b"",
        b"1",
        b"2",
        b"1" * 3 * 2**20,
        b"1" * (3 * 2**20 - 1) + b"2",
        b"2" + b"1" * (3 * 2**20 - 1),
    ):
        path.write_bytes(data)
        os.utime(path, ns=(5, 5))
        seen.append(str(fingerprint(path)))
    os.utime(path, ns=(6, 6))
    seen.append(str(fingerprint(path)))
    assert len({*seen}) == len(seen)
    assert fingerprint(path) == fingerprint(path)


def test_a_folder_is_told_from_another(tmp_path: Path) -> None:
    """An image of many files: any of them, changed, added or renamed."""
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "c").write_bytes(b"12")
    os.utime(folder / "0" / "c", ns=(5, 5))
    seen = [str(fingerprint(folder))]
    (folder / "0" / "c").write_bytes(b"13")
    os.utime(folder / "0" / "c", ns=(6, 6))
    seen.append(str(fingerprint(folder)))
    (folder / "0" / "c").rename(folder / "0" / "d")
    seen.append(str(fingerprint(folder)))
    (folder / "zarr.json").write_bytes(b"{}")
    seen.append(str(fingerprint(folder)))
    assert len({*seen}) == 4


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="a: no such file"):
        fingerprint(tmp_path / "a")
    (tmp_path / "b").write_text("")
    with pytest.raises(ImageError, match="b/c: cannot be read: Not a directory"):
        fingerprint(tmp_path / "b" / "c")
