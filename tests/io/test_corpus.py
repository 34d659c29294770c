"""Regression tests of tests/corpus, and tests of the fuzzer itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus"
FILES = sorted(p.name for p in CORPUS.iterdir() if p.name != "README.md")


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[str]]:
    """Return the outcome for every file, read and upscaled in a process of its own."""
    done = fuzz("--files", *(str(CORPUS / name) for name in FILES))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(FILES), done.stderr[-2000:]
    return {
        line["file"]: [f"{o}: {w}" if w else o for o, w in zip(line["outcomes"], line["why"], strict=True)]
        for line in lines
    }


@pytest.mark.parametrize("name", FILES)
def test_what_once_broke(outcomes: dict[str, list[str]], name: str) -> None:
    assert set(outcomes[name]) <= {"accepted", "refused"}, "\n".join(outcomes[name])


def test_the_corpus_is_described_and_small() -> None:
    described = re.findall(r"^\| `([^`]+)` \| \S", (CORPUS / "README.md").read_text(), re.MULTILINE)
    assert described == FILES
    assert sum((CORPUS / name).stat().st_size for name in FILES) < 300_000


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    for kind, suffix in (("tiff", ".tif"), ("png", ".png"), ("zarr", ".zarr")):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        told = [fuzz("--replay", f"{kind}:7", "--keep", str(p)).stdout for p in (first, second)]
        assert told[0].replace(str(first), "") == told[1].replace(str(second), "")
        both = [
            {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
            if path.is_dir()
            else path.read_bytes()
            for path in (first, second)
        ]
        assert both[0]
        assert both[0] == both[1]


FAULTY = """
import os, sys, time
sys.path.insert(0, {root!r})
from tools import fuzz
kinds = {{
    1: lambda: os.abort(), 2: lambda: time.sleep(60), 3: lambda: bytearray(3 * 2**30), 4: lambda: {{}}["x"],
    5: lambda: [bytearray(b"x" * 2**20) for _ in range(1700)],
}}
fuzz.SECONDS = 6.0
fuzz.attempt = lambda path, kind, number: kinds.get(number, lambda: None)() or "accepted"
run = fuzz.Run([("png", n) for n in range(20)], lambda kind, number: b"", 2)
run.run()
assert len(run.results) == 20
for n in range(1, 6):
    outcome, why = run.results["png", n]
    print(outcome, why.strip().splitlines()[-1])
print(sum(outcome == "accepted" for outcome, _ in run.results.values()))
"""


def test_the_fuzzer_finds_what_it_looks_for() -> None:
    """A signal, a hang, too large an allocation, an exception and a leak each cost one case only."""
    code = FAULTY.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        "finding ended by SIGABRT",
        "finding over 6 s",
        "finding MemoryError",
        "finding KeyError: 'x'",
        "finding MemoryError",
        "15",
    ]


@pytest.mark.slow
def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    done = fuzz("-n", "2000", "--findings", str(tmp_path))
    findings = [line for line in done.stdout.splitlines() if line.startswith("finding")]
    assert findings == []
    assert done.returncode == 0, done.stdout + done.stderr
