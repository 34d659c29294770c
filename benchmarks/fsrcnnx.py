"""Turn an FSRCNNX shader into ONNX to measure a trained FSRCNN: python benchmarks/fsrcnnx.py SHADER -o X.onnx

FSRCNNX is FSRCNN (Dong et al., arXiv 1608.00367), trained by others for video players and published as GLSL
text; its last layer is a convolution with a pixel shuffle in place of the transposed convolution. The wheel
``vsscale==2.0.1`` on PyPI contains the shaders. Each pass of a shader computes four channels of a layer as
sums of the form ``res += mat4(...) * TEXTURE_texOff(vec2(x, y))``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LANES = 4  # channels of a texture
NUMBERS = r"\(([-+.,e0-9]+)\)"
TERM = re.compile(
    r"res \+= (?:vec4|mat4|mat4x4)" + NUMBERS + r" \* (?:float\()?(\w+?)_tex(?:Off)?\((.*?)\)\)?\)?;"
)
BIAS = re.compile(r"vec4 res = vec4" + NUMBERS)
SLOPES = re.compile(r"res = max\(res, vec4\(0\.0\)\) \+ vec4" + NUMBERS)
SKIP = re.compile(r"res \+= (\w+?)_texOff\(0\);")


@dataclass
class Pass:
    """One pass of a shader: four channels of a layer."""

    layer: str
    saves: str
    bias: NDArray[np.float32]
    slopes: NDArray[np.float32] | None
    skip: str | None
    terms: dict[tuple[str, int, int], NDArray[np.float32]] = field(default_factory=dict)


def numbers(text: str) -> NDArray[np.float32]:
    """Return the comma-separated numbers of a GLSL constructor."""
    return np.array(text.split(","), np.float32)


def passes(text: str) -> Iterator[Pass]:
    """Yield the convolution passes of a shader; its last pass, the shuffle, is not one."""
    for part in text.split("//!HOOK")[1:]:
        bias, slopes, skip = BIAS.search(part), SLOPES.search(part), SKIP.search(part)
        if bias is None:
            continue
        title = re.search(r"//!DESC (.*?)[ _]\d+\n", part)
        saves = re.search(r"//!SAVE (\w+)", part)
        if title is None or saves is None:
            raise ValueError("a pass without a description or an output")
        found = Pass(
            title[1],
            saves[1],
            numbers(bias[1]),
            numbers(slopes[1]) if slopes else None,
            skip[1] if skip else None,
        )
        for values, texture, place in TERM.findall(part):
            offsets = [int(float(k)) for k in re.findall(r"-?[.\d]+", place.removeprefix("vec2"))]
            x, y = (offsets * 2)[:2]  # one number stands for both
            found.terms[texture, y, x] = numbers(values).reshape(-1, LANES)  # GLSL stores columns
        if len(found.terms) != part.count("_tex") - len(SKIP.findall(part)):
            raise ValueError(f"pass {found.saves}: not every term was understood")
        yield found


def convert(text: str) -> onnx.ModelProto:
    """Return the network of a shader, from ``lr`` (1, 1, h, w) to ``hr`` (1, 1, 2h, 2w)."""
    nodes, weights, layers = [], [], dict[str, list[Pass]]()
    for part in passes(text):
        layers.setdefault(part.layer, []).append(part)
    tensors: dict[str, tuple[str, int]] = {"LUMA": ("lr", 0)}  # tensor and first channel of each texture
    for k, (layer, parts) in enumerate(layers.items()):
        textures = list(dict.fromkeys(texture for part in parts for texture, _, _ in part.terms))
        source = tensors[textures[0]][0]
        lanes = next(iter(parts[0].terms.values())).shape[0]
        radius = max(y for _, y, _ in parts[0].terms)
        weight = np.zeros(
            (LANES * len(parts), lanes * len(textures), 2 * radius + 1, 2 * radius + 1), np.float32
        )
        for n, part in enumerate(parts):
            for (texture, y, x), columns in part.terms.items():
                name, first = tensors[texture]
                if name != source:
                    raise ValueError(f"{layer}: reads both {source} and {name}")
                weight[LANES * n : LANES * n + LANES, first : first + lanes, y + radius, x + radius] = (
                    columns.T
                )
        bias = np.concatenate([part.bias for part in parts])
        if k == len(layers) - 1:  # the shuffle reads channel 2x + y, DepthToSpace 2y + x
            weight, bias = weight[[0, 2, 1, 3]], bias[[0, 2, 1, 3]]
        weights += [numpy_helper.from_array(weight, f"w{k}"), numpy_helper.from_array(bias, f"b{k}")]
        nodes.append(helper.make_node("Conv", [source, f"w{k}", f"b{k}"], [f"conv{k}"], pads=[radius] * 4))
        out = f"conv{k}"
        if parts[0].skip:
            nodes.append(helper.make_node("Add", [out, tensors[parts[0].skip][0]], [f"sum{k}"]))
            out = f"sum{k}"
        if parts[0].slopes is not None:
            slopes = np.concatenate([part.slopes for part in parts if part.slopes is not None])
            weights.append(numpy_helper.from_array(slopes.reshape(-1, 1, 1), f"s{k}"))
            nodes.append(helper.make_node("PRelu", [out, f"s{k}"], [f"layer{k}"]))
            out = f"layer{k}"
        for n, part in enumerate(parts):
            tensors[part.saves] = (out, LANES * n)
    nodes.append(helper.make_node("DepthToSpace", [out], ["hr"], blocksize=2))
    graph = helper.make_graph(
        nodes,
        "fsrcnnx",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("hr", TensorProto.FLOAT, ["n", 1, "2h", "2w"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Convert one shader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shader", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    onnx.save(convert(args.shader.read_text()), args.output)


if __name__ == "__main__":
    main()
