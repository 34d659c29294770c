"""Checkpoints and models written as ONNX files."""
