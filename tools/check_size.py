"""Refuse files over 1 MB: python tools/check_size.py FILE ... (a pre-commit hook)."""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT = 1_000_000


def main() -> int:
    large = [
        (p, p.stat().st_size) for p in map(Path, sys.argv[1:]) if p.is_file() and p.stat().st_size > LIMIT
    ]
    for path, size in large:
        print(f"{path}: {size} bytes, over {LIMIT}; do not commit training data or results")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
