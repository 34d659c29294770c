"""Runtimes that run a network (ONNX Runtime, OpenVINO, CUDA), and the rendering of windows with each."""
