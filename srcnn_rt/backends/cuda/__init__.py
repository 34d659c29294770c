"""What runs on NVIDIA cards: bytes in, bytes out. The rest of the package sees it through `runtime`."""
