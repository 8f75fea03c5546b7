"""A long run against the same run killed again and again: do both end alike, and does memory stay flat?

    python tests/soak.py --epochs 200 --kills 20 --seed 0 --out book/results/soak.json

Trains `smoke` on few drawn faces, once in one piece and once with kill -9, resumed each time. Two kills of three come
at a random moment of a random epoch. Every third comes in the middle of a write: half of the file is on the disk.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mifad_lite.checkpoint import read_tensors
from mifad_lite.records import provenance, read_record, write_record
from mifad_lite.synthetic import synthetic_data

ROOT = Path(__file__).parents[1]
SIZES = (16, 7, 7)
DATA = "drawn:{},public={},private={}".format(*SIZES)
EVERY = 10  # epochs between two looks at the memory
WARM = 20  # epochs after which the memory shall not grow
BOUND = 30  # MB that it may grow by then: a list that kept every batch would take more in a few epochs

# `python -m mifad_lite`, dead by its own hand in the middle of the write that its first two arguments name.
DIES_WRITING = """
import os, signal, sys
from pathlib import Path
import mifad_lite.__main__ as cli
from mifad_lite import train

epoch, name, *argv = sys.argv[1:]
save_state = train.save_state
reached = []

def save_state_of(path, config, data, history, *rest):
    reached.append(len(history))
    save_state(path, config, data, history, *rest)

def half(write):
    def instead(path, raw, *rest):
        if reached and reached[-1] >= int(epoch) and name in path.name:
            write(path, raw[: len(raw) // 2], *rest)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, raw, *rest)
    return instead

train.save_state = save_state_of
Path.write_bytes = half(Path.write_bytes)
Path.write_text = half(Path.write_text)
sys.exit(cli.main(argv))
"""


def options(folder: Path, epochs: int) -> list[str]:
    run = ["train", "--profile", "smoke", "--data", DATA, "--batch", "8"]
    return [*run, "--epochs", str(epochs), "--out", str(folder)]


def start(folder: Path, epochs: int, *more: str, writing: tuple[int, str] | None = None) -> subprocess.Popen:
    how = ["-c", DIES_WRITING, *map(str, writing)] if writing else ["-m", "mifad_lite"]
    command = [sys.executable, *how, *options(folder, epochs), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)


def epoch_of(line: str) -> int:
    return int(line.split()[1].split("/")[0]) if line.startswith("epoch") else 0


def resident(process: subprocess.Popen) -> float | None:
    """MB that a process holds in memory; None where the system does not say."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2)


def uncut(folder: Path, epochs: int) -> list[list]:
    """Train in one piece: -> [epoch, MB] every so often."""
    seen = []
    process = start(folder, epochs)
    for line in process.stdout:
        if (epoch := epoch_of(line)) and epoch % EVERY == 0:
            seen.append([epoch, resident(process)])
    if process.wait():
        raise RuntimeError(f"the uncut run ended with exit code {process.returncode}")
    return seen


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def cut(folder: Path, epochs: int, kills: int, seed: int, pace: float, log: Callable) -> dict:
    """Train with so many kills, `pace` seconds an epoch: -> what happened."""
    rng = np.random.default_rng(seed)
    targets = sorted(rng.choice(np.arange(1, epochs), kills, replace=False).tolist())
    done = {"kills": 0, "while_writing": 0, "left_behind": 0}
    for number, target in enumerate(targets):
        writing = (target, ("last", "record")[int(rng.integers(2))]) if number % 3 == 1 else None
        process = start(folder, epochs, "--resume", writing=writing)
        if not writing:
            for line in process.stdout:
                if epoch_of(line) >= target:
                    time.sleep(rng.uniform(0, pace))
                    break
            process.send_signal(signal.SIGKILL)
        process.stdout.read()
        process.stdout.close()
        code, left = process.wait(), hidden(folder)
        log(f"epoch {target}: {'in a write' if writing else 'at random'}, exit code {code}, left behind {left}")
        done["kills"] += code == -signal.SIGKILL
        done["while_writing"] += bool(writing)
        done["left_behind"] += len(left)
    process = start(folder, epochs, "--resume")
    process.communicate()
    done["exit_code"] = process.returncode
    done["still_there"] = len(hidden(folder))
    return done


def lasting(record: dict) -> dict:
    """A record without what differs from run to run."""
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record["epochs"]]
    return {k: v for k, v in record.items() if k not in ("seconds", "date")} | {"epochs": epochs}


def same_tensors(a: Path, b: Path) -> bool:
    ours, theirs = read_tensors(a)[0], read_tensors(b)[0]
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def soak(epochs: int, kills: int, seed: int, log: Callable[[str], None] = print) -> dict:
    """Both runs, compared: -> a record."""
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        began = time.perf_counter()
        memory = uncut(whole, epochs)
        first = time.perf_counter() - began
        one = read_record(whole / "record.json")
        log(f"in one piece: {first:.0f} s, MB by epoch: {memory}")
        done = cut(killed, epochs, kills, seed, one["seconds"] / epochs, log)
        same = {name: same_tensors(whole / name, killed / name) for name in ("best.safetensors", "last.safetensors")}
        same["record.json"] = lasting(one) == lasting(read_record(killed / "record.json"))
    data = synthetic_data(*SIZES)
    late = [mb for epoch, mb in memory if epoch >= WARM and mb is not None]
    return {
        "kind": "soak",
        **provenance(data.name, data.sha256),
        "command": " ".join(options(Path("RUN"), epochs)),
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_in_one_piece": round(first, 1),
        "epochs": epochs,
        **done,
        "identical": same,
        "memory": memory,
        "growth": round(max(late) - late[0], 2) if late else None,
        "bound": BOUND,
    }


def passed(record: dict, kills: int) -> bool:
    """Does the record say what we promise?"""
    flat = record["growth"] is None or record["growth"] <= record["bound"]
    clean = record["exit_code"] == 0 and record["still_there"] == 0
    return flat and clean and all(record["identical"].values()) and record["kills"] == kills


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train in one piece and with kill -9, and compare.")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.set_defaults(command="soak")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    record = soak(args.epochs, args.kills, args.seed, lambda line: print(line, flush=True))
    print(json.dumps({k: v for k, v in record.items() if k != "memory"}, indent=1))
    if args.out:
        write_record(args.out, record)
    return 0 if passed(record, args.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
