"""Export of checkpoints and models to ONNX files."""
