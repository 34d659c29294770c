"""``python -m srcnn_rt`` is ``srcnn-rt``."""

from .cli import main

main()
