"""What runs on NVIDIA GPUs: bytes in, bytes out. The rest of the package sees it through `runtime`."""
