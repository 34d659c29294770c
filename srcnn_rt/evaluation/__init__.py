"""Image quality metrics, evaluation on test sets, and verification of seamless tiling."""
