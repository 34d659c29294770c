"""Graphs prepared for lower precision, and the PSNR they lose: bfloat16 on the CPU, float16 on a GPU."""
