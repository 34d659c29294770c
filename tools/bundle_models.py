"""Export, evaluate and bundle trained models: python tools/bundle_models.py runs/* --eval set5 set14

For each run folder of `srcnn-rt train` this exports ``last.pt``, measures the exported file through `Engine`
(the protocol of `srcnn-rt eval`), and writes the model, with its scores in the metadata, and its model card
into ``srcnn_rt/models/bundled``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import onnx

from srcnn_rt import ModelSpec
from srcnn_rt.architectures import compact
from srcnn_rt.architectures.networks import is_compact
from srcnn_rt.evaluation import runner
from srcnn_rt.exporting.checkpoint import export
from srcnn_rt.models import spec
from srcnn_rt.training.recipe import RECIPES, TrainConfig, defaults_of
from srcnn_rt.training.run_folder import RunFolder

MODELS = Path(spec.__file__).parent / "bundled"

MODEL_CARD = """# {name}

{network} {purpose}{inside}. {form}

| | |
|---|---|
| architecture | {arch}, {size}, {parameters} parameters{taps} |
| input, output | `lr` (N, {channels}, h + {pad}, w + {pad}) → `hr` (N, {channels}, {up}h, {up}w), float32{values} |
| margin | {margin} LR pixels, mirrored at the image's edges |
| degradation | {degrade} |
| training data | {sources}: {images} images ({held} held out for validation); no image of a test set |
| recipe | {how} |
| length | {steps} steps{more}, {minutes} minutes with {threads} thread(s) of an {cpu} |
| export | agrees with {against} to {largest:.1g} of full scale |

PSNR in dB / SSIM, mean over each folder, measured on this file through `Engine`:

{table}

Trained and bundled by
```
{train}
python tools/bundle_models.py runs/{name} --eval DIR/set5 DIR/set14
```
To measure it again: `srcnn-rt eval --model {name} --data DIR/set5 --data DIR/set14`.

Licence: the weights are MIT, like the code. The 91 images (t91) were published with the sparse-coding
work of Yang et al. (2010), the 80 images of sunhays80 with Sun and Hays's super-resolution from
internet-scale scenes (2012), both for research. They are not part of this repository.
"""

FORMS = {
    "equivariant": "Equivariant form: no biases, first filters that sum to zero, and the result added to the "
    "{image}, so that f(a·x + b) = a·f(x) + b.",
    "paper": "The paper's form: with biases; the network gives the image itself.",
}
VALUES = {
    "any": " in any unit",
    "y": ", luminance from 16/255 (black) to 235/255 (white)",
    "rgb": " in [0, 1]",
}

# Published PSNR: tables 3 and 4 of the paper and its project page. 9-1-5 was trained on 91 images,
# 9-5-5 on ImageNet.
PAPER = {
    ("9-1-5", 2): {"set5": 36.34, "set14": 32.18},
    ("9-1-5", 3): {"set5": 32.39, "set14": 29.00},
    ("9-1-5", 4): {"set5": 30.09, "set14": 27.20},
    ("9-3-5", 3): {"set5": 32.66},
    ("9-5-5", 2): {"set5": 36.66, "set14": 32.45},
    ("9-5-5", 3): {"set5": 32.75, "set14": 29.30},
    ("9-5-5", 4): {"set5": 30.49, "set14": 27.50},
}


def measure(target: Path, described: ModelSpec, folders: list[Path]) -> list[runner.Result]:
    """Measure a model and its baselines; a colour model also in RGB, with the luminance model beside it."""
    results = []
    for channels in ("y", "rgb") if described.channels == 3 else ("y",):
        protocol = runner.protocol_for(described, channels, None)
        methods = [*runner.baselines(protocol), runner.model_method(target, "cpu")]
        if channels == "rgb":
            methods.insert(-1, runner.model_method(f"srcnn-955-x{described.scale}", "cpu"))
        results += [runner.evaluate(f, methods, protocol, log=print) for f in folders]
        for method in methods:
            with method.closing:
                pass
    return results


def table(results: list[runner.Result], described: ModelSpec) -> str:
    """Return the scores as a Markdown table, with the published ones if there are any."""
    plain = str(results[0].protocol.degradation) == "bicubic" and described.channels == 1
    published = PAPER.get((described.architecture, described.scale), {}) if plain else {}
    methods = [m for r in results for m in r.scores]
    columns = list(dict.fromkeys(methods))
    paper = f" paper, {described.architecture} |" if published else ""
    lines = [
        "| | " + " | ".join(columns) + " |" + paper,
        "|---|" + "---:|" * (len(columns) + bool(published)),
    ]
    for r in results:
        label = r.folder + (", RGB" if r.protocol.channels == "rgb" else "")
        cells = [f"{(s := r.mean(m)).psnr:.2f} / {s.ssim:.4f}" if m in r.scores else "" for m in columns]
        if published:
            cells.append(f"{published[r.folder]:.2f}" if r.folder in published else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(config: TrainConfig, name: str) -> str:
    """Return the command that repeats one run."""
    plain = TrainConfig(data=("",), out="", scale=2).asdict()
    plain |= {**RECIPES[config.recipe], **defaults_of(config.arch)}
    words = [f"--data DIR/{Path(d).name}" for d in config.data] + [f"--scale {config.scale}"]
    if config.minutes:
        words.append(f"--minutes {config.minutes:g}")
    for key, value in config.asdict().items():
        if key in ("data", "scale", "minutes", "out", "validate", "device") or value == plain[key]:
            continue
        if key == "augment_scales":
            words += [f"--augment-scale {factor:g}" for factor in value]
            continue
        if key == "branches":
            words.append("--no-branches")
            continue
        value = f"runs/{Path(value).parent.name}/last.pt" if key == "init_from" else value
        words.append(f"--{key.replace('_', '-')} {value}")
    return f"srcnn-rt train {' '.join(words)} --out runs/{name}"


def commands(run: Path) -> list[str]:
    """Return the commands that repeat a run, after those of the run that it started from."""
    config: TrainConfig = RunFolder(run).read()["config"]
    before = commands(run.parent / Path(config.init_from).parent.name) if config.init_from else []
    return [*before, command(config, run.name)]


def describe(arch: str) -> tuple[str, str]:
    """Return what an architecture is, and its size, for the model card."""
    if not is_compact(arch):
        return f"SRCNN {arch} (Dong et al., arXiv 1501.00092)", "64 and 32 filters"
    shape = compact.parse(arch)
    return (
        "A compact network on LR pixels, trained and folded as ECBSR is (Zhang et al., ACM MM 2021),",
        f"{shape.layers + 2} layers of 3x3 filters, {shape.width} channels with "
        f"{'PReLU' if shape.prelu else 'ReLU'} between them",
    )


def bundle(run: Path, folders: list[Path]) -> ModelSpec:
    """Export one run into the package and return the spec of its model."""
    name = run.name
    record: dict[str, Any] = RunFolder(run).read()
    config: TrainConfig = record["config"]
    target = MODELS / f"{name}.onnx"
    described = export(run / "last.pt", target, overwrite=True)
    results = measure(target, described, folders)
    how = (
        config.summary().replace(config.init_from, Path(config.init_from).parent.name)
        if config.init_from
        else ""
    )
    training = {
        **described.training,
        "data": config.sources(),
        "how": how or config.summary(),
        "psnr": {},
        "psnr_baseline": {},
    }
    for r in results:
        if r.protocol.channels == "y":
            training["psnr"][r.folder] = round(r.mean(name).psnr, 2)
            training["psnr_baseline"][r.folder] = round(r.mean(next(iter(r.scores))).psnr, 2)
    proto = onnx.load(target)
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
    s = described.scale
    equivariant = described.equivariant
    what = "on luminance" if described.channels == 1 else "on red, green and blue at once"
    if config.degrade == "bicubic":
        purpose = f"for ×{s} {what}"
    else:
        purpose = f"that undoes {config.degrade} at ×{s} {what}"
    network, size = describe(described.architecture)
    text = MODEL_CARD.format(
        name=name,
        network=network,
        size=size,
        purpose=purpose,
        inside=", with bicubic enlargement inside the graph" if s > 1 else "",
        form=FORMS["equivariant" if equivariant else "paper"].format(
            image="bicubic image" if s > 1 else "image"
        ),
        values=VALUES["any" if equivariant else "y" if described.channels == 1 else "rgb"],
        arch=described.architecture,
        channels=described.channels,
        up="" if s == 1 else s,
        parameters=described.parameters,
        taps=f", {25 * s * s * described.channels} of them for the bicubic" if s > 1 else "",
        pad=2 * described.margin,
        margin=described.margin,
        degrade=training["degrade"],
        sources=config.sources(),
        images=len(set(record["data"]["images"])),
        held=0 if config.validate else config.hold_out,
        how=training["how"],
        steps=training["steps"],
        more=" after the run it started from" if config.init_from else "",
        minutes=training["minutes"],
        threads=record["machine"]["threads"],
        cpu=record["machine"]["processor"],
        against=described.check["against"],
        largest=described.check["largest"],
        table=table(results, described),
        train="\n".join(commands(run)),
    )
    target.with_suffix(".md").write_text(text)
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--eval", type=Path, nargs="+", required=True, help="folders of test images")
    args = parser.parse_args()
    for run in args.runs:
        described = bundle(run, args.eval)
        print(described.name, described.training["psnr"], described.training["psnr_baseline"])


if __name__ == "__main__":
    main()
