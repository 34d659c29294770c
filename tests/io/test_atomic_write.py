"""Atomic writing of files."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

import pytest

from srcnn_rt import OutputError
from srcnn_rt._system.safe_files import atomic_write


def test_the_name_appears_with_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert Path(file.name).parent == tmp_path
        assert Path(file.name).read_bytes() == b"new"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_old_file_only(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.json: cannot be written: No space left on device"):  # noqa: SIM117
        with atomic_write(tmp_path / "a.json") as file:
            file.write(b"new")
    assert not list(tmp_path.iterdir())
    for path in (tmp_path / "nowhere" / "a", tmp_path / "file" / "a"):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="a: cannot be written"), atomic_write(path):
            pass


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_bytes(b"untouched")
    path.symlink_to(victim)
    with atomic_write(path) as file:
        file.write(b"new")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    monkeypatch.setattr(secrets, "token_hex", lambda count: "guessed")
    (tmp_path / "a.json.guessed.partial").symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"), atomic_write(path) as file:
        file.write(b"newer")
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"untouched")
    assert (tmp_path / "a.json.guessed.partial").is_symlink()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "a"):
        pass
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
