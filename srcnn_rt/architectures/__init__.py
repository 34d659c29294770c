"""PyTorch networks, and the checkpoints that store their weights."""
