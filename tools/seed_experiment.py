"""Train on 70 images of T91, test on 8 others: python tools/seed_experiment.py --data DIR/t91

The split is fixed in tools/t91_split.txt. The script trains 9-1-5 for ×3 with the paper's recipe and with
ours for the same time, exports both, measures the exported files and bicubic on the 8 images, and prints the
table. Run folders stay in --out, so a second call only measures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srcnn_rt import SrcnnError
from srcnn_rt.evaluation import runner
from srcnn_rt.evaluation.tables import per_image
from srcnn_rt.exporting.checkpoint import export
from srcnn_rt.training.loop import Status, train
from srcnn_rt.training.recipe import RECIPES, TrainConfig

SPLIT = Path(__file__).parent / "t91_split.txt"


def read_split(path: Path = SPLIT) -> dict[str, list[str]]:
    """Return the file names under each heading of the split file."""
    parts: dict[str, list[str]] = {}
    names: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("["):
            names = parts.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            names.append(line)
    return parts


def gather(names: list[str], data: Path, folder: Path) -> Path:
    """Link images into a new folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (data / name).is_file():
            sys.exit(
                f"error: {data / name}: no such file; --data must be the folder of the 91 PNG files of T91"
            )
        link = folder / name
        if not link.exists():
            link.symlink_to((data / name).resolve())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of T91")
    parser.add_argument("--out", type=Path, default=Path("runs/seed"))
    parser.add_argument("--minutes", type=float, default=3.0, help="length of each training run")
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    split = read_split()
    folders = {part: gather(names, args.data, args.out / part) for part, names in split.items()}

    def show(status: Status) -> None:
        print(f"{status.part:4.0%} step {status.step}: loss {status.loss:.6f}", end="\r", flush=True)

    methods = runner.baselines(protocol := runner.Protocol(args.scale))
    try:
        for name, recipe in RECIPES.items():
            run = args.out / f"915-{name}"
            if not (run / "last.pt").exists():
                config = TrainConfig(
                    **{
                        **recipe,
                        "data": (str(folders["train"]),),
                        "out": str(run),
                        "scale": args.scale,
                        "minutes": args.minutes,
                        "hold_out": 0,
                        "threads": args.threads,
                    }
                )
                outcome = train(config, progress=show)
                print(f"\n{name}: {outcome.step} steps of {config.batch} crops in {args.minutes:g} minutes")
            model = run / f"9-1-5 {name}.onnx"
            export(run / "last.pt", model, overwrite=True)
            methods.append(runner.model_method(model, "cpu"))
        result = runner.evaluate(folders["test"], methods, protocol)
    except SrcnnError as error:
        sys.exit(f"error: {error}")
    print(per_image(result))


if __name__ == "__main__":
    main()
