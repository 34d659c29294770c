"""Write a model repository for the Triton Inference Server: images in, larger images out, batched.

    pip install "srcnn-rt[cpu]"
    python examples/triton_repository.py repository --model srcnn-915-x2 --layout rgb
    docker run --rm -p8000:8000 -v $PWD/repository:/models nvcr.io/nvidia/tritonserver:25.08-py3 \\
        tritonserver --model-repository=/models

The model takes images (N, H, W, C) of any size and does all that `srcnn-rt upscale` does to samples. It
computes an image whole, so the server's memory bounds its size; for larger ones there is `srcnn-rt upscale`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from srcnn_rt.exporting.image_model import LAYOUTS, TYPES, export

TRITON_TYPES = {"u8": "TYPE_UINT8", "u16": "TYPE_UINT16", "f32": "TYPE_FP32"}
CONFIG = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
input [
  {{
    name: "{input}"
    data_type: {type}
    dims: [ -1, -1, {channels} ]
  }}
]
output [
  {{
    name: "{output}"
    data_type: {type}
    dims: [ -1, -1, {channels} ]
  }}
]
# Requests with images of one size share a batch.
dynamic_batching {{
  max_queue_delay_microseconds: 2000
}}
instance_group [
  {{
    count: 1
    kind: {kind}
  }}
]
"""


def write(
    repository: Path, model: str = "srcnn-915-x2", layout: str = "rgb", io: str = "u8", *, batch: int = 8,
    gpu: bool = False,
) -> Path:  # fmt: skip
    """Write ``NAME/1/model.onnx`` and ``NAME/config.pbtxt``; return the folder of the model."""
    folder = repository / f"{Path(model).stem}-{layout}-{io}"
    (folder / "1").mkdir(parents=True, exist_ok=True)
    path = folder / "1" / "model.onnx"
    export(model, path, io, layout, overwrite=True)
    graph = onnx.load(path).graph
    config = CONFIG.format(
        name=folder.name, batch=batch, input=graph.input[0].name, output=graph.output[0].name,
        type=TRITON_TYPES[io], channels=LAYOUTS[layout].channels, kind="KIND_GPU" if gpu else "KIND_CPU",
    )  # fmt: skip
    (folder / "config.pbtxt").write_text(config)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("--model", default="srcnn-915-x2")
    parser.add_argument("--layout", choices=LAYOUTS, default="rgb")
    parser.add_argument("--io-dtype", choices=TYPES, default="u8")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    print(
        write(given.repository, given.model, given.layout, given.io_dtype, batch=given.batch, gpu=given.gpu)
    )
