"""Graphs prepared for lower precision, and the PSNR they lose: bfloat16 on the CPU, float16 on a GPU."""

from .bfloat16 import Bfloat16Model, for_bfloat16
from .float16 import Float16Model, float16_loss, for_float16
from .loss import loss_db, synthetic_image

__all__ = [
    "Bfloat16Model", "Float16Model", "float16_loss", "for_bfloat16", "for_float16", "loss_db",
    "synthetic_image",
]  # fmt: skip
