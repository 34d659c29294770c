"""Graphs made ready for fewer bits, and what they lose: bfloat16 on the CPU, float16 on a GPU."""

from .bfloat16 import Reduced, for_bfloat16
from .float16 import Half, float16_loss, for_float16
from .loss import drawn, loss_db

__all__ = ["Half", "Reduced", "drawn", "float16_loss", "for_bfloat16", "for_float16", "loss_db"]
