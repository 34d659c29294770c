"""Models: their files, their facts, and the graphs that run for them."""
