"""Refuse words that this project replaced by the field's own terms: python tools/check_words.py [FILE ...].

Without files it reads every tracked text file. A line that needs such a word says why with ``words: ok``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {".py", ".pyx", ".pyi", ".h", ".md", ".toml", ".yaml", ".sh", ""}
SKIPPED = ("LICENSE", "tests/corpus/", "tools/check_words.py", "CHANGELOG.md")

BANNED = {
    r"(?<!motion )\bpictures?\b": "image",
    r"\bPicture[A-Z]\w*": "Image…",
    r"(?<!model )(?<!model's )\bcards?\b(?! of (a|the|each|every) model)": "GPU, device (or: model card)",
    r"\b(a|the|one|each|every) processor\b": "CPU",
    r"\b(MOST|LEAST)_\w+": "MAX_, MIN_",
    r"\b(go|goes|going|went|gone) on (with|where|from)\b": "resume, continue",
    r"\blet(s|ting)? go of\b": "release",
    r"\bHR pixels an LR pixel\b": "scale factor",
    r"\b(unbounded|unknown|the|its|whose|same) reach\b": "receptive field",
    r"\bno command repeats\b|\bnothing was asked\b": "(say what is so, not how work went)",
    r"--(whole|rate|start|shave|sheet|means)\b(?!-)": "the option's new name",
}


def tracked() -> list[Path]:
    """Return the text files under version control."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def faults(path: Path) -> list[str]:
    """Return one line per banned word in a file."""
    whole = path.resolve()
    name = (whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else whole).as_posix()
    if name.startswith(SKIPPED):
        return []
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if "words: ok" in line:
            continue
        for pattern, better in BANNED.items():
            for match in re.finditer(pattern, line):
                found.append(f"{name}:{number}: {match[0]!r}: use {better}")
    return found


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]] or tracked()
    found = [fault for path in paths if path.is_file() for fault in faults(path)]
    print("\n".join(found) if found else "words: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
