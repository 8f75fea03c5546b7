"""Where do the faces go when the margin is large? Angles after each epoch of training, one seed for each margin.

    python tests/far_side.py --data fer2013.csv --runs runs/far_side --out book/results/far_side.json

The runs are those of `ablate --table margin` with seed 0, so their public test must follow the same curve. After each
epoch the network is asked for the angles between its class directions, and for the angle between each face of the
public test and the direction of its own class. A margin whose file lies in the folder is not trained again.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mifad_lite import geometry
from mifad_lite.__main__ import get_data
from mifad_lite.checkpoint import build, read_tensors
from mifad_lite.data import FaceData, FaceSet
from mifad_lite.evaluate import predict_logits
from mifad_lite.records import provenance, read_record, write_record
from mifad_lite.train import PROFILES, TrainConfig, fit

MARGINS = (0.0, 0.1, 0.2, 0.3, 0.5)
BINS = 36  # of 5 degrees each
CONFIG = replace(PROFILES["ablation"], epochs=12, batch=512, lr=0.01, seed=0)


def look(net: nn.Module, faces: FaceSet) -> dict:
    """The angles of a network with a cosine head, in degrees.

    "between": least, mean and largest angle between two class directions.  "own": how many faces lie 0 to 5, 5 to 10,
    ... degrees from the direction of their own class.  "answers": how often each class is the answer.
    """
    w = net.head.weight.detach().double().numpy()
    pairs = np.degrees(geometry.angle_between(w, w)[np.triu_indices(len(w), 1)])
    cosines = predict_logits(net, faces.images).double().numpy() / net.config.scale
    labels = faces.labels.numpy()
    own = np.degrees(np.arccos(np.clip(cosines[np.arange(len(labels)), labels], -1, 1)))
    answers = cosines.argmax(1)
    return {
        "accuracy": float((answers == labels).mean()),
        "between": [round(float(a), 2) for a in (pairs.min(), pairs.mean(), pairs.max())],
        "own": np.histogram(own, BINS, (0, 180))[0].tolist(),
        "answers": np.bincount(answers, minlength=len(w)).tolist(),
    }


def run(data: FaceData, config: TrainConfig, folder: Path, log: Callable[[str], None] = print) -> dict:
    """Train with one margin and look at the averaged network after each epoch: -> a record, also written to a file."""
    file, unfinished = folder / f"m{config.margin:g}.json", folder / f"m{config.margin:g}.unfinished"
    if file.exists():
        kept = read_record(file)
        if (kept["config"], kept["data"]["sha256"]) != (config.to_dict(), data.sha256):
            raise ValueError(f"{file}: this run has other data or settings; remove it or name another folder")
        return kept
    shutil.rmtree(unfinished, ignore_errors=True)  # the looks of a run that was cut are lost
    looks = []

    def after_epoch(line: str) -> None:
        tensors, _ = read_tensors(unfinished / "last.safetensors")
        net = build(config.arch, config.network)
        net.load_state_dict({k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")})
        looks.append(look(net, data.public))
        log(f"m = {config.margin:g}: {line}")

    # On a GPU the state would not be written after every epoch.
    _, trained = fit(data, config, unfinished, device="cpu", log=after_epoch, progress=False)
    told = ("epoch", "loss", "train_accuracy", "public_accuracy")
    epochs = [{k: e[k] for k in told} | seen for e, seen in zip(trained["epochs"], looks, strict=True)]
    record = {k: trained[k] for k in ("commit", "data", "device", "versions", "date", "config", "seed", "seconds")}
    record |= {"kind": "far side run", "epochs": epochs}
    write_record(file, record)
    shutil.rmtree(unfinished)
    return record


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Angles after each epoch, for small and large margins.")
    parser.add_argument("--data", help="as for python -m mifad_lite")
    parser.add_argument("--margins", type=float, nargs="+", default=MARGINS)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.set_defaults(command="far side")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    torch.set_num_threads(1)  # as the runs of the ablation, whose numbers depend on it
    try:
        data = get_data(args.data)
        runs = {f"{m:g}": run(data, replace(CONFIG, margin=m), args.runs) for m in args.margins}
    except ValueError as problem:
        sys.exit(str(problem))
    first = next(iter(runs.values()))
    record = {
        "kind": "far side",
        **provenance(data.name, data.sha256),
        "device": first["device"],
        "config": {**first["config"], "margin": None},
        "seed": CONFIG.seed,
        "seconds": round(sum(r["seconds"] for r in runs.values()), 1),
        "runs": {m: {"commit": r["commit"], "seconds": r["seconds"], "epochs": r["epochs"]} for m, r in runs.items()},
    }
    for m, r in runs.items():
        last = r["epochs"][-1]
        print(f"m = {m}: {last['between'][1]:.0f} degrees between classes, public test {last['accuracy']:.4f}")
    if args.out:
        write_record(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
