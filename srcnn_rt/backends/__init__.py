"""What runs a network: ONNX Runtime, OpenVINO, CUDA, and the rendering of windows on each."""
