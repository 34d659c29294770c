"""Train the bundled luminance models: python tools/train_models.py --data DIR --out runs

Writes one run folder a scale; ``srcnn-rt export runs/srcnn-915-x3/last.pt`` makes the
model file. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse

from srcnn_rt.train.loop import TrainConfig, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of training pictures")
    parser.add_argument("--out", required=True, help="folder for the run folders")
    parser.add_argument("--validate", default="", help="folder of test pictures whose PSNR is logged")
    parser.add_argument("--arch", default="9-1-5")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--steps", type=int, default=16_000)
    args = parser.parse_args()
    for scale in args.scales:
        out = f"{args.out}/srcnn-{args.arch.replace('-', '')}-x{scale}"
        train(
            TrainConfig(
                data=args.data,
                out=out,
                scale=scale,
                arch=args.arch,
                steps=args.steps,
                validate=args.validate,
            ),
            log=lambda line, out=out: print(f"{out}: {line}", flush=True),
        )


if __name__ == "__main__":
    main()
