"""The promise: two short runs on drawn faces, and the band in which a fresh one should land."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from .data import CLASSES
from .evaluate import accuracy, predict_logits
from .model import PRESETS
from .records import provenance
from .synthetic import synthetic_data
from .train import TrainConfig, fit, profile

FACES = {"train": 600, "public": 200, "private": 2000, "intra": 0.3, "inter": 0.2}  # few, so they are easy ones
DATA = "drawn:600,public=200,private=2000,intra=0.3,inter=0.2"  # the same as an option of the command line
RUNS: dict[str, tuple[str, TrainConfig, int]] = {  # options, what they mean, how many seeds
    "smoke": ("--profile smoke", profile("smoke"), 6),
    "cpu": (
        "--profile cpu --preset lite --epochs 4 --batch 32",
        profile("cpu", network=PRESETS["lite"].to_dict(), epochs=4, batch=32),
        4,
    ),
}
# 99.5 % quantiles of Student's t distribution for 1, 2, 3 ... degrees of freedom: what is left on both sides is 1 %.
T99 = (63.6567, 9.9248, 5.8409, 4.6041, 4.0321, 3.7074, 3.4995, 3.3554, 3.2498)
LEAST = 0.02  # no band reaches less far than this from its middle


def band(accuracies: list[float]) -> tuple[float, float]:
    """The 99 % prediction interval for one more run, clipped to [0, 1]: mean -+ t s sqrt(1 + 1 / n), at least LEAST.

    Holds for runs that scatter normally. Raises ValueError for fewer than 2 or more than 10 runs.
    Source: Hahn and Meeker, Statistical Intervals, 1991, section 4.
    """
    n = len(accuracies)
    if not 2 <= n <= len(T99) + 1:
        raise ValueError(f"{n} runs: a band needs 2 to {len(T99) + 1}")
    middle = statistics.fmean(accuracies)
    half = max(LEAST, T99[n - 2] * statistics.stdev(accuracies) * math.sqrt(1 + 1 / n))
    return max(0.0, middle - half), min(1.0, middle + half)


def promise(log: Callable[[str], None] = print) -> dict:
    """Train every run of RUNS with seeds 1, 2 ... and return the record. Seed 0 is left for whoever tries."""
    data = synthetic_data(**FACES)
    runs = {}
    for name, (options, config, repeats) in RUNS.items():
        accuracies, seconds = [], []
        for seed in range(1, repeats + 1):
            net, trained = fit(data, replace(config, seed=seed), device="cpu", progress=False)
            accuracies.append(accuracy(predict_logits(net, data.private.images), data.private.labels))
            seconds.append(trained["seconds"])
            log(f"{name:6} seed {seed}: private test {100 * accuracies[-1]:.2f} %, {seconds[-1]:.0f} s")
        low, high = band(accuracies)
        log(f"{name:6} one more run: {100 * low:.1f} to {100 * high:.1f} %")
        folder = f"runs/promise_{name}"
        runs[name] = {
            "train": f"python -m mifad_lite train {options} --data {DATA} --out {folder}",
            "evaluate": f"python -m mifad_lite evaluate --data {DATA} --checkpoint {folder}/best.safetensors",
            "config": {**config.to_dict(), "seed": None},
            "seeds": list(range(1, repeats + 1)),
            "accuracy": accuracies,
            "seconds": seconds,
            "band": [low, high],
        }
    return {
        "kind": "promise",
        **provenance(data.name, data.sha256),
        "drawn": DATA,
        "private": len(data.private),
        "seeds": list(range(1, 1 + max(repeats for *_, repeats in RUNS.values()))),
        "chance": 1 / len(CLASSES),
        "level": 0.99,
        "least": LEAST,
        "seconds": round(sum(sum(run["seconds"]) for run in runs.values()), 1),
        "runs": runs,
    }
