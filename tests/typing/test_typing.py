"""mypy --strict and pyright accept a user's program, and find every wrong use in another."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Faults = dict[int, str]  # by line


def mypy(file: Path) -> Faults:
    pytest.importorskip("mypy", reason="the extra 'lint' is not installed")
    # With the settings of this package, which are strict, so that `make lint` shares the cache.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty", str(file)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = re.findall(rf"{file.name}:(\d+): error: (.*)", done.stdout)
    return {int(line): text for line, text in found}


def pyright(file: Path) -> Faults:
    command = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")
    if command is None:
        pytest.skip("the extra 'lint' is not installed")
    done = subprocess.run(
        [command, "--outputjson", "--pythonpath", sys.executable, str(file)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if not done.stdout:
        pytest.skip(f"pyright cannot be run, it loads itself from the network: {done.stderr[-200:]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1: d["message"] for d in found if d["severity"] == "error"}


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_users_program_is_accepted(check: Callable[[Path], Faults]) -> None:
    assert check(HERE / "user_program.py") == {}


@pytest.mark.parametrize("check", [mypy, pyright])
def test_every_wrong_use_is_found(check: Callable[[Path], Faults]) -> None:
    file = HERE / "wrong_uses.py"
    lines = file.read_text().splitlines()
    wrong = {n for n, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = check(file)
    assert set(found) == wrong, {n: (lines[n - 1], found.get(n)) for n in set(found) ^ wrong}
