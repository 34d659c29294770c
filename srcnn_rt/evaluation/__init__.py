"""How good a model is, and the proof that it is seam-free."""
