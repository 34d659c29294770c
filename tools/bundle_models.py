"""Export, evaluate and bundle: python tools/bundle_models.py runs/* --eval set5 set14

For every run folder: exports ``last.pt``, measures the exported file through Engine on
folders of test pictures in the field's protocol, and writes the model with its PSNR in
the metadata and a model card beside it into ``srcnn_rt/models``.

Protocol: luminance by MATLAB's rgb2ycbcr (rounded to 8 bits), sides cut to multiples of
the scale, shrunk by MATLAB's bicubic without rounding, upscaled, rounded to 8 bits, a
border of `scale` pixels shaved, PSNR in dB, mean over the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx

from srcnn_rt import Engine, ModelSpec, spec
from srcnn_rt.train.data import imresize, list_pictures, modcrop, read_luminance
from srcnn_rt.train.export import export
from srcnn_rt.train.loop import psnr

MODELS = Path(spec.__file__).parent / "models"

CARD = """# {name}

SRCNN {arch} for ×{scale} on luminance (Dong et al., arXiv 1501.00092), bicubic inside.

| | |
|---|---|
| architecture | {arch}, 64 and 32 filters, {parameters} numbers (bicubic's {taps} among them) |
| input, output | `lr` (N, 1, h + {pad}, w + {pad}) → `hr` (N, 1, {scale}h, {scale}w), float32 in [0, 1] |
| margin | {margin} LR pixels, mirrored at the picture's edges |
| training data | {data}: the 91 pictures of the paper; nothing of any test set |
| recipe | {recipe} |
| length | {steps} steps, {minutes} minutes on two CPU cores |
| export | agrees with {against} to {largest:.1g} of full scale |

PSNR in dB, mean over the folder, this file through `Engine`:

| | bicubic | {name} | paper, {arch} |
|---|---:|---:|---:|
{rows}

Made by `python tools/train_models.py --data DIR/t91 --out runs --scales {scale} --steps {steps}` and
`python tools/bundle_models.py runs/{name} --eval DIR/set5 DIR/set14`.

Licence: the weights are MIT like the code. The 91 pictures were published with the sparse-coding
work of Yang et al. (2010) for research; they are not part of this repository.
"""

# Table 3 and 4 of the paper and its project page, 9-1-5 trained on 91 pictures.
PAPER = {
    ("9-1-5", 2): {"set5": 36.34, "set14": 32.18},
    ("9-1-5", 3): {"set5": 32.39, "set14": 29.00},
    ("9-1-5", 4): {"set5": 30.09, "set14": 27.20},
}


def evaluate(folder: Path, model: str | Path) -> float:
    """Mean PSNR of a model file over a folder."""
    scores = []
    with Engine(model, "cpu", 256) as engine:
        for path in list_pictures(folder):
            truth = modcrop(read_luminance(path), engine.scale)
            lr = imresize(truth, engine.scale, down=True).astype(np.float32)
            scores.append(psnr(engine.upscale(lr).astype(np.float64), truth, engine.scale))
    return float(np.mean(scores))


def bundle(run: Path, folders: list[Path]) -> ModelSpec:
    """Export one run into the package and return its spec."""
    target = MODELS / f"{run.name}.onnx"
    described = export(run / "last.pt", target, overwrite=True)
    scores = {f.name: round(evaluate(f, target), 2) for f in folders}
    plain = {f.name: round(evaluate(f, f"bicubic-x{described.scale}"), 2) for f in folders}
    proto = onnx.load(target)
    training = {**described.training, "psnr": scores, "psnr_bicubic": plain}
    spec.set_metadata(
        proto,
        architecture=described.architecture,
        scale=described.scale,
        channels=described.channels,
        training=training,
        check=described.check,
    )
    onnx.save(proto, target)
    _, described = spec.load(target)
    published = PAPER.get((described.architecture, described.scale), {})
    rows = []
    for k, v in scores.items():
        paper = f"{published[k]:.2f}" if k in published else ""
        rows.append(f"| {k} | {plain[k]:.2f} | {v:.2f} | {paper} |")
    card = CARD.format(
        name=run.name,
        arch=described.architecture,
        scale=described.scale,
        parameters=described.parameters,
        taps=25 * described.scale**2,
        pad=2 * described.margin,
        margin=described.margin,
        against=described.check["against"],
        largest=described.check["largest"],
        rows="\n".join(rows),
        **{k: training[k] for k in ("data", "recipe", "steps", "minutes")},
    )
    target.with_suffix(".md").write_text(card)
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--eval", type=Path, nargs="+", required=True, help="folders of test pictures")
    args = parser.parse_args()
    for run in args.runs:
        described = bundle(run, args.eval)
        print(described.name, dict(described.training["psnr"]), dict(described.training["psnr_bicubic"]))


if __name__ == "__main__":
    main()
