"""NVIDIA GPUs: samples go to the device as they are in the image, and come back finished."""
