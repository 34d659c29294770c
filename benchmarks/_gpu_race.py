"""Is the image right, and how long does it take: the check before and the rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _gpu_case import Case, Contestant
from numpy.typing import NDArray

# rms in code values of 255 that a precision may differ by; float32 goes by its largest difference.
LIMITS = {"tf32": 0.8, "float16": 0.8, "bfloat16": 1.5}
MAX_FLOAT32 = 1.0
WARM_UP = 2
_ROWS = 512  # compared at once, to spare the memory


class WrongImageError(Exception):
    """A contestant's image is too far from the reference."""


class Deadline:
    """What is left of the time a run may take; `limit` seconds from now."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._end = clock, clock() + limit

    @property
    def over(self) -> bool:
        return self._clock() >= self._end


def difference(got: NDArray[np.uint8], reference: NDArray[np.uint8]) -> tuple[float, float]:
    """Return rms and largest difference of two images, in code values."""
    squares, worst = 0, 0
    for y in range(0, len(got), _ROWS):
        delta = got[y : y + _ROWS].astype(np.int32) - reference[y : y + _ROWS]
        squares += int(np.einsum("ij,ij->", delta, delta, dtype=np.int64))
        worst = max(worst, int(np.abs(delta).max()))
    return math.sqrt(squares / got.size), float(worst)


def verify(contestant: Contestant, case: Case, reference: NDArray[np.uint8]) -> tuple[float, float]:
    """Warm a contestant up and check its image.

    Returns
    -------
    rms and largest difference, code values of 255

    Raises
    ------
    WrongImageError
    """
    for _ in range(WARM_UP):
        contestant.run()
    case.place.wait()
    got = contestant.result()
    if got.shape != reference.shape or got.dtype != np.uint8:
        raise WrongImageError(f"gives {got.dtype} {got.shape}, not uint8 {reference.shape}")
    rms, worst = difference(got, reference)
    limit = LIMITS.get(contestant.precision)
    if limit is None and worst > MAX_FLOAT32:
        raise WrongImageError(f"largest difference {worst:g} code values, over {MAX_FLOAT32:g}")
    if limit is not None and rms > limit:
        raise WrongImageError(f"rms {rms:.3g} code values, over {limit:g}")
    return rms, worst


def turn(contestant: Contestant, wait: Callable[[], None], seconds: float) -> list[float]:
    """Run until `seconds` are filled, once at least; return the seconds of every run.

    A run begins and ends with an idle GPU: the host's clock then counts the work of all streams, also
    of libraries whose events are not ours.
    """
    runs: list[float] = []
    wait()
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        start = time.perf_counter()
        contestant.run()
        wait()
        runs.append(time.perf_counter() - start)
    return runs


def summary(turns: Sequence[Sequence[float]], pixels: int) -> dict[str, Any]:
    """Return the speed, Mpx/s of the result, and times in milliseconds."""
    speeds = [pixels / 1e6 / float(np.median(runs)) for runs in turns]
    every = np.concatenate([np.asarray(runs) for runs in turns]) * 1e3
    return {
        "mpx_per_s": float(np.median(speeds)),
        "p50": float(np.percentile(every, 50)),
        "p95": float(np.percentile(every, 95)),
        "runs": len(every),
        "rounds": speeds,
    }


def race(
    team: Sequence[Contestant],
    wait: Callable[[], None],
    pixels: int,
    rounds: int,
    seconds: float,
    deadline: Deadline,
    done: Callable[[dict[str, dict[str, Any]], dict[str, Exception]], None],
) -> bool:
    """Let contestants take turns, in an order drawn anew in each round; say whether all rounds were run.

    Parameters
    ----------
    wait : until the GPU is idle
    pixels : of the result
    deadline : no round begins after it, but for the first
    done : given, after each round, summaries by name and route, and the errors of those that fell out
    """
    rng = np.random.default_rng(0)
    turns: dict[str, list[list[float]]] = {key(c): [] for c in team}
    fallen: dict[str, Exception] = {}
    for k in range(rounds):
        if k and deadline.over:
            return False
        for at in rng.permutation(len(team)):
            contestant = team[at]
            if key(contestant) in fallen:
                continue
            try:
                turns[key(contestant)].append(turn(contestant, wait, seconds))
            except Exception as error:  # the GPU's memory may be full only now
                fallen[key(contestant)] = error
        done({name: summary(own, pixels) for name, own in turns.items() if name not in fallen}, fallen)
    return True


def key(contestant: Contestant) -> str:
    """Return what is unique of a contestant."""
    return f"{contestant.name}, {contestant.route}"
