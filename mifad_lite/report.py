"""Numbers and pictures that prose shows, made from the committed records: python -m mifad_lite report.

In README.md, in the model card and in Markdown pages a number stands between markers:
`<!--r:KEY-->67.10 %<!--/r-->`. This module fills them in. A test fails where a page and the records disagree.
"""

import csv
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from . import plots
from .checkpoint import DRAWN, FLAGSHIP, SHIPPED, load_network
from .data import CLASSES, FaceSet
from .evaluate import Z95
from .export import Opened
from .interactive import pack
from .model import PRESETS, MIFADNet
from .records import RESULTS, provenance, read_record, write_atomically
from .synthetic import synthetic_faces
from .train import PROFILES

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "book/beyond.md",
    "book/faults.md",
    "book/index.md",
    "book/face.md",
    "book/reproduce.md",
    "book/run.md",
    "book/teach.md",
    "mifad_lite/pretrained/README.md",
)
FIGURES = "book/_static/figures"
MARKER = re.compile(r"<!--r:([\w.]+)-->(.*?)<!--/r-->", re.DOTALL)

# Every record of book/results: what it holds, and the options that make it, or a script of tests/ with its own.
# `train` writes its record into its folder, every other command takes --out. A record whose file is not there yet
# stands on no page.
RECORDS = {
    "fer2013": ("FER2013 counted: classes, twins, flaws", "data --data fer2013.csv"),
    "cpu_run": ("the small network that ships, lite", "train --profile cpu --data fer2013.csv --out runs/cpu"),
    "cpu_evaluation": ("accuracy of lite on both tests", "evaluate --checkpoint lite --data fer2013.csv"),
    "cpu_evaluation_flip": ("that, with the mirror image", "evaluate --checkpoint lite --flip --data fer2013.csv"),
    "cpu_evaluation_int8": ("that, on 8-bit integers", "evaluate --checkpoint lite --int8 --data fer2013.csv"),
    "inspection": (
        "what lite learned: calibration, mistakes, maps, lost parts",
        "inspect --checkpoint lite --data fer2013.csv",
    ),
    "long_run": ("a wider network, trained for longer", "train --profile long --data fer2013.csv --out runs/long"),
    "long_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/long/best.safetensors --data fer2013.csv",
    ),
    "long_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint runs/long/best.safetensors --flip --data fer2013.csv",
    ),
    "flagship_run": (
        "the best network, for one GPU and a few minutes",
        "train --profile flagship --data fer2013.csv --out runs/flagship",
    ),
    "flagship_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint flagship --data fer2013.csv",
    ),
    "flagship_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint flagship --flip --data fer2013.csv",
    ),
    "resnet_run": (
        "a ResNet-18 with the same recipe",
        "train --profile flagship --arch resnet18 --width 32 --data fer2013.csv --out runs/resnet",
    ),
    "resnet_evaluation": (
        "accuracy of the ResNet-18 on both tests",
        "evaluate --checkpoint runs/resnet/best.safetensors --data fer2013.csv",
    ),
    "resnet_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint runs/resnet/best.safetensors --flip --data fer2013.csv",
    ),
    "taught_run": (
        "six more epochs of the best network, with the ResNet-18 as a teacher",
        "train --profile flagship --start runs/flagship/best.safetensors --teach 0.7 "
        "--teacher runs/resnet/best.safetensors --epochs 6 --batch 128 --lr 0.001 --no-bf16 --no-graph "
        "--data fer2013.csv --out runs/taught",
    ),
    "between": (
        "the public test between the best network and the taught one",
        "interpolate runs/flagship/best.safetensors runs/taught/best.safetensors "
        "--data fer2013.csv --save runs/between.safetensors",
    ),
    "between_evaluation": (
        "accuracy on both tests of the average that the public test chose",
        "evaluate --checkpoint runs/between.safetensors --data fer2013.csv",
    ),
    "between_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint runs/between.safetensors --flip --data fer2013.csv",
    ),
    "taught_again_run": (
        "four more epochs of the best network, with the same teacher and another seed",
        "train --profile flagship --start runs/flagship/best.safetensors --teach 0.7 "
        "--teacher runs/resnet/best.safetensors --epochs 4 --batch 128 --lr 0.001 --seed 1 --no-bf16 --no-graph "
        "--data fer2013.csv --out runs/taught_again",
    ),
    "between_pupils": (
        "the public test between the two taught networks",
        "interpolate runs/taught/best.safetensors runs/taught_again/best.safetensors "
        "--steps 2 --data fer2013.csv --save runs/pupils.safetensors",
    ),
    "between_three": (
        "the public test between the best network and the average of the two",
        "interpolate runs/flagship/best.safetensors runs/pupils.safetensors "
        "--data fer2013.csv --save runs/three.safetensors",
    ),
    "three_evaluation": (
        "accuracy on both tests of the average of three that the public test chose",
        "evaluate --checkpoint runs/three.safetensors --data fer2013.csv",
    ),
    "three_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint runs/three.safetensors --flip --data fer2013.csv",
    ),
    "untaught_run": (
        "the six epochs of the first pupil, without the teacher",
        "train --profile flagship --start flagship --epochs 6 --batch 128 --lr 0.001 --no-graph "
        "--data fer2013.csv --out runs/untaught",
    ),
    "untaught_again_run": (
        "the four epochs of the second pupil, without the teacher",
        "train --profile flagship --start flagship --epochs 4 --batch 128 --lr 0.001 --seed 1 --no-graph "
        "--data fer2013.csv --out runs/untaught_again",
    ),
    "untaught_walk": (
        "the public test between the best network and the first of these two",
        "interpolate flagship runs/untaught/best.safetensors "
        "--data fer2013.csv --save runs/untaught_walk.safetensors",
    ),
    "untaught_walk_two": (
        "the public test between these two",
        "interpolate runs/untaught/best.safetensors runs/untaught_again/best.safetensors "
        "--steps 2 --data fer2013.csv --save runs/untaught_two.safetensors",
    ),
    "untaught_walk_three": (
        "the public test between the best network and their average",
        "interpolate flagship runs/untaught_two.safetensors "
        "--data fer2013.csv --save runs/untaught_three.safetensors",
    ),
    "whole_run": (
        "three more epochs of the best network, on whole faces",
        "train --profile flagship --start flagship --crop 0 --epochs 3 --batch 128 --lr 0.0005 --seed 2 --no-graph "
        "--data fer2013.csv --out runs/whole",
    ),
    "windows_run": (
        "those three epochs on windows",
        "train --profile flagship --start flagship --epochs 3 --batch 128 --lr 0.0005 --seed 2 --no-graph "
        "--data fer2013.csv --out runs/windows",
    ),
    "windows_walk": (
        "the public test between the best network and that",
        "interpolate flagship runs/windows/best.safetensors --data fer2013.csv --save runs/windows_walk.safetensors",
    ),
    "whole_walk": (
        "the public test between the best network and the one for whole faces",
        "interpolate flagship runs/whole/best.safetensors --data fer2013.csv --save runs/whole_walk.safetensors",
    ),
    "whole_walk_on": (
        "the public test between the best place without a teacher and that",
        "interpolate runs/untaught_walk.safetensors runs/whole/best.safetensors "
        "--data fer2013.csv --save runs/whole_on.safetensors",
    ),
    "whole_on_evaluation": (
        "accuracy on both tests of the average that the public test chose",
        "evaluate --checkpoint runs/whole_on.safetensors --data fer2013.csv",
    ),
    "whole_on_evaluation_flip": (
        "that, with the mirror image",
        "evaluate --checkpoint runs/whole_on.safetensors --flip --data fer2013.csv",
    ),
    "mixed_run": (
        "eight more epochs of the best network, on whole faces and with more noise",
        "train --profile flagship --start flagship --crop 0 --mixup 1 --epochs 8 --batch 128 --lr 0.001 --seed 3 "
        "--no-graph --data fer2013.csv --out runs/mixed",
    ),
    "mixed_walk": (
        "the public test between the best network and that",
        "interpolate flagship runs/mixed/best.safetensors --data fer2013.csv --save runs/mixed_walk.safetensors",
    ),
    "mixed_walk_on": (
        "the public test between the average for whole faces and that",
        "interpolate runs/whole_on.safetensors runs/mixed/best.safetensors "
        "--data fer2013.csv --save runs/mixed_on.safetensors",
    ),
    "mixed_long_run": (
        "the same epochs with more noise, twice as many",
        "train --profile flagship --start flagship --crop 0 --mixup 1 --epochs 16 --batch 128 --lr 0.001 --seed 3 "
        "--no-graph --data fer2013.csv --out runs/mixed_long",
    ),
    "mixed_long_walk": (
        "the public test between the best network and that",
        "interpolate flagship runs/mixed_long/best.safetensors "
        "--data fer2013.csv --save runs/mixed_long_walk.safetensors",
    ),
    "flat_run": (
        "six more epochs of the best network, on whole faces and with sharpness-aware steps",
        "train --profile flagship --start flagship --crop 0 --sam 0.1 --epochs 6 --batch 128 --lr 0.001 --seed 3 "
        "--no-graph --data fer2013.csv --out runs/flat",
    ),
    "plain_run": (
        "the same with plain steps, which cost half",
        "train --profile flagship --start flagship --crop 0 --epochs 6 --batch 128 --lr 0.001 --seed 3 "
        "--no-graph --data fer2013.csv --out runs/plain",
    ),
    "plain_long_run": (
        "the same with twice the epochs, at the cost of the sharpness-aware ones",
        "train --profile flagship --start flagship --crop 0 --epochs 12 --batch 128 --lr 0.001 --seed 3 "
        "--no-graph --data fer2013.csv --out runs/plain_long",
    ),
    "plain_long_end": (
        "the public test on the best network and on that",
        "interpolate flagship book/results/plain_long.safetensors --steps 1 "
        "--data fer2013.csv --save runs/plain_long_end.safetensors",
    ),
    "flat_walk": (
        "the public test between the best network and the one of sharpness-aware steps",
        "interpolate flagship runs/flat/best.safetensors --rise 0.1 "
        "--data fer2013.csv --save runs/flat_walk.safetensors",
    ),
    "plain_walk": (
        "the public test between the best network and the one of plain steps",
        "interpolate flagship runs/plain/best.safetensors --rise 0.1 "
        "--data fer2013.csv --save runs/plain_walk.safetensors",
    ),
    "soup_two": (
        "the public test between these two",
        "interpolate runs/plain/best.safetensors runs/flat/best.safetensors --steps 2 "
        "--data fer2013.csv --save runs/soup_two.safetensors",
    ),
    "soup_three": (
        "the public test between their average and the longer run with more noise",
        "interpolate runs/soup_two.safetensors runs/mixed_long/best.safetensors --steps 3 "
        "--data fer2013.csv --save runs/soup_three.safetensors",
    ),
    "soup_walk": (
        "the public test between the best network and that soup",
        "interpolate flagship runs/soup_three.safetensors --data fer2013.csv --save runs/soup.safetensors",
    ),
    "paper_run": (
        "the paper's recipe, with a small network and a few epochs",
        "train --profile paper --preset slim --epochs 8 --no-bf16 --data fer2013.csv --out runs/paper",
    ),
    "paper_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/paper/best.safetensors --data fer2013.csv",
    ),
    "paper_cycle_run": (
        "the same with a rate that rises and falls",
        "train --profile paper --preset slim --epochs 8 --schedule one-cycle --no-bf16 --data fer2013.csv "
        "--out runs/paper_cycle",
    ),
    "paper_cycle_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/paper_cycle/best.safetensors --data fer2013.csv",
    ),
    "paper_longer_run": (
        "the paper's recipe once more, with three times the epochs",
        "train --profile paper --preset slim --epochs 24 --no-bf16 --data fer2013.csv --out runs/paper_longer",
    ),
    "paper_longer_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/paper_longer/best.safetensors --data fer2013.csv",
    ),
    "paper_cycle_longer_run": (
        "the same with one cycle over those epochs",
        "train --profile paper --preset slim --epochs 24 --schedule one-cycle --no-bf16 --data fer2013.csv "
        "--out runs/paper_cycle_longer",
    ),
    "paper_cycle_longer_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/paper_cycle_longer/best.safetensors --data fer2013.csv",
    ),
    "paper_full_run": (
        "the paper's recipe as it stands, as far as it came",
        "train --profile paper --preset slim --data fer2013.csv --out runs/paper_full",
    ),
    "paper_full_evaluation": (
        "accuracy of that network on both tests",
        "evaluate --checkpoint runs/paper_full/best.safetensors --data fer2013.csv",
    ),
    "ablation": (
        "the paper's Tables 3 to 6 and two rivals, on FER2013",
        "ablate --profile ablation --epochs 2 --lr 0.01 --no-bf16 --workers 2 "
        "--table loss branches attention fusion rivals --data fer2013.csv --runs runs/ablation",
    ),
    "ablation_dials": (
        "the margin and the scale of the loss, with the same budget",
        "ablate --profile ablation --epochs 2 --lr 0.01 --no-bf16 --workers 2 "
        "--table margin scale --data fer2013.csv --runs runs/dials",
    ),
    "ablation_matched": (
        "three columns against others with as many parameters, with the same budget",
        "ablate --profile ablation --epochs 2 --lr 0.01 --no-bf16 --workers 2 "
        "--table matched --data fer2013.csv --runs runs/matched",
    ),
    "ablation_gpu": (
        "the paper's Table 3 once more, with six times the epochs",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --graph --workers 3 --seeds 2 "
        "--table loss --data fer2013.csv --runs runs/ablation_gpu",
    ),
    "ablation_gpu_one": (
        "all of those tables with as many epochs, but one seed",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --graph --workers 3 --seeds 1 "
        "--table loss branches attention fusion rivals --data fer2013.csv --runs runs/ablation_gpu",
    ),
    "ablation_longer": (
        "the paper's Tables 5 and 4 with as many epochs, and three seeds",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --workers 2 "
        "--table attention branches --data fer2013.csv --runs runs/ablation_longer",
    ),
    "ablation_longer_losses": (
        "the paper's Table 3 and two rivals, with those epochs and seeds",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --workers 2 "
        "--table loss rivals --data fer2013.csv --runs runs/ablation_longer",
    ),
    "ablation_longer_rest": (
        "the paper's Table 6 and the scale of the loss, with those epochs and seeds",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --workers 2 "
        "--table fusion scale --data fer2013.csv --runs runs/ablation_longer",
    ),
    "ablation_longer_matched": (
        "three columns against others with as many parameters, with those epochs and seeds",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --workers 2 "
        "--table matched --data fer2013.csv --runs runs/ablation_longer",
    ),
    "ablation_longer_margin": (
        "the margin of the loss, with those epochs and seeds",
        "ablate --profile ablation --epochs 12 --batch 512 --lr 0.01 --workers 2 "
        "--table margin --data fer2013.csv --runs runs/ablation_longer",
    ),
    "far_side": (
        "the angles, epoch by epoch, while a large margin falls apart",
        "tests/far_side.py --data fer2013.csv --runs runs/far_side",
    ),
    "ablation_drawn": (
        "the paper's Tables 3 to 6 and ours, on drawn faces",
        "ablate --profile cpu --preset tiny --epochs 5 --batch 64 --lr 0.008 --workers 2 "
        "--table loss branches attention fusion matched margin scale recipe "
        "--data drawn:2000,public=500,private=3000,intra=0.45,inter=0.45 --runs runs/drawn",
    ),
    "drawn_run": (
        "the network that knows drawn faces",
        "train --profile cpu --preset tiny --epochs 14 --data drawn:20000 --out runs/tiny",
    ),
    "inspection_drawn": (
        "what the network for drawn faces learned",
        "inspect --checkpoint drawn --faces 30 --show --data drawn:2000,public=1400,private=1400",
    ),
    "explorer": ("what that network computes on seven faces", "explore"),
    "bench": ("images per second", "bench --repeats 3"),
    "scaling": ("cost against batch, width and size", "bench --scaling"),
    "gates": ("what the gates' smallest numbers cost on a CPU", "bench --gates --repeats 16"),
    "graphs": ("CUDA graphs and compilation on a GPU", "bench --graphs --compile"),
    "promise": ("the band of two short runs", "promise"),
    "chapters": ("how long each chapter takes to run", "report"),
    "faults": ("what was refused, and how", "tests/faults.py --draws 25 --slow 12 --seed 0"),
    "soak": ("a run that was killed again and again", "tests/soak.py --epochs 200 --kills 20 --seed 0"),
}


def percent(x: float) -> str:
    return f"{100 * x:.2f} %"


def values() -> dict[str, str]:
    """Every key that a page may show, and its text."""
    run, bench = read_record("cpu_run"), read_record("bench")
    out = {
        "run.epochs": str(run["config"]["epochs"]),
        "run.minutes": f"{run['seconds'] / 60:.0f}",
        "run.device": run["device"],
        "run.commit": run["commit"],
        "run.seed": str(run["seed"]),
        "run.date": run["date"][:10],
        "run.best_epoch": str(run["best_epoch"]),
        "run.public": percent(run["best_public_accuracy"]),
        "run.recipe": recipe(run["config"]),
        "data.sha256": run["data"]["sha256"],
        "checkpoint.sha256": hashlib.sha256(SHIPPED.read_bytes()).hexdigest(),
        "drawn.file_sha256": hashlib.sha256(DRAWN.read_bytes()).hexdigest(),
        "checkpoint.megabytes": f"{SHIPPED.stat().st_size / 1e6:.1f}",
        "bench.device": bench["device"],
        "bench.batch": str(bench["batch"]),
        "bench.lite_over_columns": f"{bench['lite_over_columns']:.2f}",
        "bench.naive_over_ours": f"{bench['naive_over_ours']:.2f}",
        "bench.table": bench_table(bench),
    }
    drawn, fresh = read_record("drawn_run"), read_record("inspection_drawn")["private"]
    out |= {
        "drawn.megabytes": f"{DRAWN.stat().st_size / 1e6:.1f}",
        "drawn.commit": drawn["commit"],
        "drawn.device": drawn["device"],
        "drawn.date": drawn["date"][:10],
        "drawn.recipe": recipe(drawn["config"]),
        "drawn.best_epoch": str(drawn["best_epoch"]),
        "drawn.sha256": drawn["data"]["sha256"],
        "drawn.public": percent(drawn["best_public_accuracy"]),
        "drawn.private": percent(fresh["accuracy"]),
        "drawn.private.n": f"{fresh['n']:,}",
        "drawn.private.interval": interval(fresh["wilson_95"]),
    }
    out |= {f"profile.{name}.epochs": str(config.epochs) for name, config in PROFILES.items()}
    promised = read_record("promise")
    for name, one in promised["runs"].items():
        out |= {
            f"promise.{name}.band": interval(one["band"], 1),
            f"promise.{name}.range": interval([min(one["accuracy"]), max(one["accuracy"])], 1),
            f"promise.{name}.seeds": str(len(one["seeds"])),
            f"promise.{name}.seconds": f"{statistics.median(one['seconds']):.0f}",
            f"promise.{name}.commands": "\n".join(["", "", "```bash", one["train"], one["evaluate"], "```", ""]),
        }
    out |= {
        "promise.n": f"{promised['private']:,}",
        "promise.chance": f"{100 * promised['chance']:.1f} %",
        "promise.device": promised["device"],
        "chapters.table": chapters_table(),
        "chapters.device": read_record("chapters")["device"],
        "face.errors": face_errors(),
        **fault_values(read_record("faults"), read_record("soak")),
        "classroom.sets": sets_table(),
        "classroom.misconceptions": misconceptions_table(),
        "records.table": records_table(),
        "records.commands": records_commands(),
    }
    out |= beyond()
    longer = read_record("long_run")
    out["long.epochs"], out["long.minutes"] = str(longer["config"]["epochs"]), f"{longer['seconds'] / 60:.0f}"
    large = read_record("flagship_run")
    out |= {f"flagship.{key}": str(large[key]) for key in ("commit", "device", "seed", "best_epoch")}
    out |= {
        "flagship.epochs": str(large["config"]["epochs"]),
        "flagship.minutes": f"{large['seconds'] / 60:.0f}",
        "flagship.date": large["date"][:10],
        "flagship.recipe": recipe(large["config"]),
        "flagship.public": percent(large["best_public_accuracy"]),
        "flagship.megabytes": f"{FLAGSHIP.stat().st_size / 1e6:.1f}",
        "flagship.file_sha256": hashlib.sha256(FLAGSHIP.read_bytes()).hexdigest(),
    }
    for suffix, name in EVALUATIONS.items():
        record = read_record(name)
        for split, parts in record["splits"].items():
            for part, s in parts.items():
                key = f"{suffix}.{split}.{part}"
                out[key] = percent(s["accuracy"])
                out[f"{key}.interval"] = interval(s["wilson_95"])
                out[f"{key}.n"] = f"{s['n']:,}"
        if suffix == "flagship.plain":
            out["flagship.per_class"] = class_table(record["splits"]["private"])
        if suffix == "plain":
            public = record["splits"]["public"]["whole"]
            out["rounding.faces"] = str(abs(public["hits"] - round(run["best_public_accuracy"] * public["n"])))
            out["plain.per_class"] = class_table(record["splits"]["private"])
    return out


# Faces of AffectNet's training set with a label by hand, as those who train on it publish them.
AFFECTNET = {
    "neutral": 74_874,
    "happy": 134_415,
    "sad": 25_459,
    "surprise": 14_090,
    "fear": 6_378,
    "disgust": 3_803,
    "anger": 24_882,
    "contempt": 3_750,
}


def beyond() -> dict[str, str]:
    """What the page "Beyond one GPU" shows: arithmetic of AffectNet's counts, our speeds and our networks."""
    n, fer = sum(AFFECTNET.values()), read_record("fer2013")["counts"]["train"]
    speed = {row["name"]: row["images_per_second"] for row in read_record("bench")["training"]}
    sides = {row["side"]: row["images_per_second"] for row in read_record("scaling")["resolution"]["rows"]}

    def table(head: str, rows: list[tuple]) -> str:
        line = "|---" + "|---:" * (head.count("|") - 2) + "|"
        return "\n".join(["", "", head, line, *("| " + " | ".join(row) + " |" for row in rows), ""])

    def gigabytes(images: int, size: int) -> str:
        return f"{images * size / 1e9:.2f} GB"

    faces = {"FER2013, training": sum(fer), "AffectNet, eight classes": n, "AffectNet, all": 10**6}
    memory = [
        (name, f"{images:,}", gigabytes(images, 48**2), gigabytes(images, 3 * 224**2)) for name, images in faces.items()
    ]
    measured = [("lite", 48, speed["lite"]), ("base", 48, speed["base"]), ("lite", 96, sides[96])]
    hours = [(f"{name}, {side} x {side}", f"{r:.0f}", f"{n / r / 3600:.1f}") for name, side, r in measured]
    least = n / speed["lite"] / 3600 * (224 / 48) ** 2
    hours.append(("lite, 224 x 224, if cost grew with the area alone", "", f"{least:.1f}"))
    nets = {name: MIFADNet(PRESETS[name]) for name in ("lite", "base", "wide")}
    weights = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    norms = [m.num_features for m in nets["lite"].modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    traffic = [
        (name, f"{w:,}", *(f"{2 * (k - 1) / k * 4 * w / 1e6:.1f} MB" for k in (2, 8))) for name, w in weights.items()
    ]
    return {
        "beyond.n": f"{n:,}",
        "beyond.ratio": f"{n / sum(fer):.1f}",
        "beyond.imbalance": f"{max(AFFECTNET.values()) / min(AFFECTNET.values()):.1f}",
        "beyond.fer.imbalance": f"{max(fer) / min(fer):.1f}",
        "beyond.fer.megabytes": f"{sum(fer) * 48**2 / 1e6:.0f}",
        "beyond.memory": table("| faces | number | 48 x 48, grey | 224 x 224, colour |", memory),
        "beyond.classes": table("| class | faces |", [(k, f"{v:,}") for k, v in AFFECTNET.items()]),
        "beyond.hours": table("| network and image | images/s | hours for an epoch |", hours),
        "beyond.traffic": table("| network | parameters | 2 processes | 8 processes |", traffic),
        "beyond.norms": str(len(norms)),
        "beyond.norm_numbers": f"{2 * sum(norms):,}",
    }


EVALUATIONS = {
    "plain": "cpu_evaluation",
    "flip": "cpu_evaluation_flip",
    "int8": "cpu_evaluation_int8",
    "long.plain": "long_evaluation",
    "long.flip": "long_evaluation_flip",
    "flagship.plain": "flagship_evaluation",
    "flagship.flip": "flagship_evaluation_flip",
    "resnet.plain": "resnet_evaluation",
    "resnet.flip": "resnet_evaluation_flip",
}


def recorded() -> dict[str, dict]:
    """The records of RECORDS that are there, in its order."""
    return {name: read_record(name) for name in RECORDS if (RESULTS / f"{name}.json").exists()}


def command(name: str) -> str:
    """The command that makes a record."""
    options = RECORDS[name][1]
    out = "" if options.startswith("train") else f" --out book/results/{name}.json"
    return f"python {'' if options.startswith('tests/') else '-m mifad_lite '}{options}{out}"


def interval(limits: list[float], digits: int = 2) -> str:
    low, high = (100 * limit for limit in limits)
    return f"{low:.{digits}f} to {high:.{digits}f} %"


def expected(record: dict) -> str:
    """What a second run of a record's command should give, in one or two sentences."""
    kind, path = record["kind"], "The same to the last digit on the same processor with as many threads"
    if " thread" not in record["device"]:
        path = "No two runs are the same, as a GPU sums in another order from run to run"
    if kind == "data":
        return "The same counts on every machine."
    if kind in ("bench", "scaling", "graphs", "gates"):
        return "Another machine has other times, and so has a busy one. Ratios within one record travel better."
    if kind == "chapters":
        return "Another machine has other times. The notebooks come out the same, pictures aside."
    if kind == "faults":
        return "The same cases, apart from the moments of signals. No defect on any machine: tell us where you see one."
    if kind == "soak":
        return "The same bits from both runs on every machine. Seconds and memory are this one's."
    if kind == "explorer":
        return "The same to about two digits on every machine: a test computes it again."
    if kind == "promise":
        bands = ", ".join(f"{name} {interval(run['band'], 1)}" for name, run in record["runs"].items())
        return f"{path}. Another run of its commands: {bands}."
    if kind == "interpolate":
        n = sum(read_record("fer2013")["counts"]["public"])  # six digits of a share can round to another percent
        accuracies = ", ".join(percent(round(point["public_accuracy"] * n) / n) for point in record["points"])
        return f"From the same two networks the same points, give or take a few faces: {accuracies} of the public test."
    if kind in ("evaluate", "inspect"):
        s = record["private"] if kind == "inspect" else record["splits"]["private"]["whole"]
        return (
            f"Private test: {s['hits']:,} hits of {s['n']:,}, give or take the few faces that rounding can turn. "
            f"On other faces of the same kind: {interval(s['wilson_95'])} (95 %, Wilson)."
        )
    if kind == "far side":
        return f"{path}. One seed for each margin, so how far another one moves the angles was not measured."
    if kind == "ablation" and len(record["seeds"]) == 1:
        return f"{path}. One seed, so how far another one moves an arm was not measured."
    if kind == "ablation":
        reach = 100 * Z95 * record["luck"] * (2 / len(record["seeds"])) ** 0.5
        return f"{path}. With other seeds an arm's mean moves by up to {reach:.1f} points in 95 % of cases."
    done, whole = len(record["epochs"]), record["config"]["epochs"]
    stopped = f" It was stopped after {done} of its {whole} epochs." if done < whole else ""
    return (
        f"{path}. Elsewhere rounding leads a run along another path; this is one run, so no band was measured. Public "
        f"test: {percent(record['best_public_accuracy'])} at epoch {record['best_epoch']}, the epoch that it chose."
        + stopped
    )


def records_table() -> str:
    rows = ["", "", "| record | what it holds | minutes | seed | date |", "|---|---|---:|---:|---|"]
    for name, r in recorded().items():
        seconds, seed = r.get("seconds"), r.get("seeds", r.get("seed", ""))
        minutes = "" if seconds is None else f"{seconds / 60:,.0f}" if seconds >= 60 else "under 1"
        seed = f"{seed[0]} to {seed[-1]}" if isinstance(seed, list) else seed
        link = f"{{ref}}`{name} <record-{name.replace('_', '-')}>`"
        rows.append(f"| {link} | {RECORDS[name][0]} | {minutes} | {seed} | {r['date'][:10]} |")
    return "\n".join([*rows, ""])


def records_commands() -> str:
    lines = [""]
    for name, r in recorded().items():
        line, (what, options) = command(name), RECORDS[name]
        lines += ["", f"(record-{name.replace('_', '-')})=", f"### {name}", "", f"{what[0].upper()}{what[1:]}.", ""]
        lines += ["```bash", line]
        if r["kind"] == "train":
            lines += [f"cp {options.split('--out ')[1]}/record.json book/results/{name}.json"]
        lines += ["```", "", expected(r), f"Made at commit `{r['commit']}` on {r['device']}."]
    return "\n".join([*lines, ""])


def chapters_table() -> str:
    """Chapter, and its seconds on a processor."""
    rows = ["", "", "| chapter | seconds |", "|---|---:|"]
    for name, seconds in read_record("chapters")["chapters"].items():
        word = re.search(r"^\((ch:\w+)\)=", (ROOT / f"book/{name}.md").read_text("utf8"), re.MULTILINE)[1]
        rows.append(f"| {{ref}}`{word}` | {seconds:.0f} |")
    return "\n".join([*rows, ""])


def fault_values(faults: dict, soak: dict) -> dict[str, str]:
    """What book/faults.md shows."""
    kinds = faults["kinds"].values()
    count = {name: sum(row[name] for row in kinds) for name in ("tried", *faults["outcomes"])}
    named = ("tried", "executed", "half_written", "traceback", "before_start")
    out = {f"faults.{name}": f"{count[name]:,}" for name in named}
    out["faults.others"] = f"{count['missed'] + count['wrong'] + count['unclear']:,}"
    out["faults.signals"] = str(sum(row["tried"] for row in kinds if row["hits"] == "signals"))
    out["faults.device"] = faults["device"]
    rows = ["", "", "| what | tried | refused | taken |", "|---|---:|---:|---:|"]
    for hits in dict.fromkeys(row["hits"] for row in kinds):
        rows.append(f"| **{hits}** | | | |")
        for row in (row for row in kinds if row["hits"] == hits):
            cells = (row["tried"], row["refused"], row["accepted"])
            rows.append(f"| {row['what']} | {' | '.join(map(str, cells))} |")
    out["faults.table"] = "\n".join([*rows, ""])
    out |= {f"soak.{k}": str(soak[k]) for k in ("epochs", "kills", "while_writing", "left_behind", "still_there")}
    return out | {f"soak.{k}": f"{soak[k]:.0f} MB" for k in ("growth", "bound")}


def sets_table() -> str:
    """The problem sets, from their own pages."""
    rows = ["", "", "| set | topic | after chapters | points by tests | by you | minutes |"]
    rows.append("|---|---|---|---:|---:|---:|")
    for path in sorted((ROOT / "book/classroom").glob("ps*_*.md")):
        text = path.read_text("utf8")
        number, topic = re.search(r"^# Problem set (\d): (.+)$", text, re.MULTILINE).groups()
        minutes, chapters = re.search(r"about (\d+) minutes\.\*\* You need chapters? ([^.]+)\.", text).groups()
        points = {k: sum(map(int, re.findall(rf"{k}=[\w.]+/(\d+)", text))) for k in ("test", "written")}
        rows.append(f"| {number} | {topic} | {chapters} | {points['test']} | {points['written']} | {minutes} |")
    return "\n".join([*rows, ""])


def misconceptions_table() -> str:
    """What the chapters' quizzes catch; a quiz is called quiz-WORD-N, and its chapter ch:WORD."""
    rows = ["", "", "| chapter | belief | the question |", "|---|---|---|"]
    with open(ROOT / "book/classroom/misconceptions.csv", encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            word, number = row["quiz"].split("-")[1:]
            rows.append(f"| {{ref}}`ch:{word}` | {row['misconception']} | {{ref}}`vote {number} <{row['quiz']}>` |")
    return "\n".join([*rows, ""])


def recipe(config: dict) -> str:
    """One line that says how a run was trained."""
    kind = f"{config['optimizer']}, {config['schedule']} to {config['lr']:g}, weight decay {config['weight_decay']:g}"
    loss = f"{config['loss']} loss"
    if config["loss"] == "angular":
        ramp = f"ramped over {100 * config['ramp']:.0f} % of the run"
        loss += f" (s = {config['network']['scale']:g}, m = {config['margin']:g} {ramp})"
    extras = [f"{name} {config[name]:g}" for name in ("smoothing", "mixup", "sam") if config.get(name)]
    if side := config["augmentation"].get("crop"):
        extras.append(f"windows of {side} pixels")
    loss = ", ".join([loss, *extras])
    return f"{config['epochs']} epochs at batch {config['batch']}, {kind}, {loss}, seed {config['seed']}"


def class_table(parts: dict) -> str:
    rows = ["", "| emotion | images | whole | twin-free |", "|---|---:|---:|---:|"]
    for i, name in enumerate(CLASSES):
        whole, free = parts["whole"], parts["twin_free"]
        n = sum(whole["confusion"][i])
        rows.append(f"| {name} | {n} | {percent(whole['per_class'][name])} | {percent(free['per_class'][name])} |")
    return "\n".join([*rows, ""])


def face_errors() -> str:
    """How often each word is wrong and each label missed, by both networks that run in the page."""
    lite = read_record("cpu_evaluation")["splits"]["private"]["twin_free"]["confusion"]
    drawn = read_record("inspection_drawn")["private"]["confusion"]
    rows = [
        "",
        "",
        "| label | photographs: wrong | misses | drawn faces: wrong | misses |",
        "|---|---:|---:|---:|---:|",
    ]
    for i, name in enumerate(CLASSES):
        shares = []
        for counts in (lite, drawn):
            said, there = sum(row[i] for row in counts), sum(counts[i])
            shares += [f"{100 * (1 - counts[i][i] / n):.0f} %" if n else "never" for n in (said, there)]
        rows.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join([*rows, ""])


def face_examples() -> str:
    """Two drawn faces of each class as a script for the page that runs the network."""
    faces = synthetic_faces(140, seed=1)
    first = [(faces.labels == c).nonzero().flatten()[:2].tolist() for c in range(len(CLASSES))]
    chosen = [pair[k] for k in range(2) for pair in first]
    shown = [{"label": CLASSES[faces.labels[i]], "pixels": pack(faces.images[i, 0], 0, 255)} for i in chosen]
    return f"window.MIFAD_EXAMPLES = {json.dumps(shown)};\n"


def opened_figure(faces: FaceSet) -> Figure:
    """What the page that runs the network shows, for the first face drawn as happy."""
    pixels = faces.images[(faces.labels == CLASSES.index("happy")).nonzero()[0, 0], 0]  # (48, 48)
    with torch.no_grad():
        out = Opened(load_network("drawn")[0], inside=True).named(pixels[None, None].float() / 255)
    return plots.opened(pixels, {name: value[0] for name, value in out.items()})


def bench_table(bench: dict) -> str:
    rows = ["", "| network | training, images/s | inference, images/s | a batch a thread | one face, ms |"]
    rows.append("|---|---:|---:|---:|---:|")
    inference = {row["name"]: row for row in bench["inference"]}
    training = {row["name"]: row for row in bench["training"]}
    for name in training | inference:
        t, i = training.get(name), inference.get(name)
        rates = ("images_per_second", "images_per_second_at_once")
        cells = " | ".join(f"{i[k]:,.0f}" for k in rates) + f" | {i['one_face_milliseconds']:.1f}" if i else " | | "
        rows.append(f"| {name} | {t['images_per_second'] if t else 0:,.0f} | {cells} |".replace("| 0 |", "| |"))
    return "\n".join([*rows, ""])


def fill(text: str, numbers: dict[str, str]) -> str:
    """Replace what stands between the markers. Raises ValueError for a key that no record gives."""

    def one(match: re.Match) -> str:
        key = match[1]
        if key not in numbers:
            raise ValueError(f"the marker r:{key} names no number; there are {', '.join(sorted(numbers))}")
        return f"<!--r:{key}-->{numbers[key]}<!--/r-->"

    return MARKER.sub(one, text)


def run_chapters(root: Path = ROOT) -> dict:
    """Run every chapter and write its notebook; returns a record with the seconds of each, Python's start included.

    Raises ValueError where a chapter stops; its notebook is left as it was.
    """
    seconds, sources = {}, sorted((root / "book").glob("[0-9][0-9]_*.md"))
    for path in sources:
        began = time.perf_counter()
        if subprocess.run([sys.executable, root / "book/build_notebooks.py", path.stem]).returncode:
            raise ValueError(f"{path.name} stopped, see above: mend it, then run this again")
        seconds[path.stem] = round(time.perf_counter() - began, 1)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    total = round(sum(seconds.values()), 1)
    return {"kind": "chapters", **provenance("the chapters", digest), "seconds": total, "chapters": seconds}


def report(root: Path = ROOT) -> list[Path]:
    """Fill the pages and draw the figures under `root`; returns the files written."""
    numbers, written = values(), []
    for page in PAGES:
        path = root / page
        filled = fill(path.read_text(), numbers)
        write_atomically(path, lambda p, text=filled: p.write_text(text))
        written.append(path)
    faces = synthetic_faces(140, seed=1)
    evaluation = read_record("cpu_evaluation")
    for name, figure in (
        ("faces", plots.contact_sheet(faces, rows=8, across=2)),
        ("network", plots.network_diagram()),
        ("curve", plots.training_curve(read_record("cpu_run"))),
        ("memory", plots.memory_curve(read_record("soak")["memory"])),
        ("confusion", plots.confusion_matrix(evaluation["splits"]["private"]["whole"]["confusion"])),
        ("opened", opened_figure(faces)),
    ):
        path = root / FIGURES / f"{name}.png"
        write_atomically(path, lambda p, f=figure: p.write_bytes(plots.png(f)))
        written.append(path)
    path = root / "book/_static/face/examples.js"
    write_atomically(path, lambda p: p.write_text(face_examples()))
    return [*written, path]
