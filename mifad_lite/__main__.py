"""Commands: python -m mifad_lite data | train | evaluate | predict | inspect | ablate | bench | and more (--help)."""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from .ablate import TABLES, ablate, format_record
from .baseline import ResNetConfig
from .bench import bench, bench_gates, bench_graphs, bench_scaling
from .checkpoint import NAMES, SHIPPED, load_network, save_network, shrink
from .data import CLASSES, SIZE, FaceData, flaws, load_fer2013
from .distributed import place, speaks
from .evaluate import evaluate_split
from .explorer import explore
from .export import export
from .fast import accelerate
from .inspection import inspect
from .interpolate import interpolate
from .interrupt import stop_at_once
from .model import PRESETS
from .predict import format_prediction, predict
from .promise import promise
from .records import check_place, provenance, write_record
from .synthetic import synthetic_data
from .train import LOSSES, PROFILES, SCHEDULES, TrainingStopped, fit, profile

ONES = "a file, or one that ships: lite (the default), drawn, flagship"


def get_data(source: str | None) -> FaceData:
    """Drawn faces for "drawn", N of them for training for "drawn:N"; a path or None goes to `load_fer2013`.

    "drawn:N,private=4000,inter=0.6" also sets the sizes of the tests and the two dials, see `synthetic_data`.
    """
    drawn = re.fullmatch(r"drawn(?::(.*))?", source or "")
    if drawn is None:
        return load_fer2013(source)
    if drawn[1] is None:
        return synthetic_data()
    if not re.fullmatch(r"[1-9]\d*(,(public|private)=[1-9]\d*|,(intra|inter)=\d*\.?\d+)*", drawn[1]):
        raise ValueError(
            f"--data {source}: after drawn: comes the number of training faces, as in drawn:20000, "
            "then what else is not as usual, as in drawn:2000,private=4000,inter=0.6"
        )
    train, *rest = drawn[1].split(",")
    options = dict(pair.split("=") for pair in rest)
    return synthetic_data(int(train), **{k: float(v) if k.startswith("int") else int(v) for k, v in options.items()})


def data_command(args: argparse.Namespace) -> None:
    data = get_data(args.data)
    print(f"{data.name}, sha256 {data.sha256}")
    print(f"{'':10}" + "".join(f"{name:>10}" for name in ("train", "public", "private")))
    splits = (data.train, data.public, data.private)
    for number, name in enumerate(CLASSES):
        print(f"{name:10}" + "".join(f"{int((s.labels == number).sum()):10,}" for s in splits))
    print(f"{'all':10}" + "".join(f"{len(s):10,}" for s in splits))
    twins = ["" if s.twin is None else f"{int(s.twin.sum()):,}" for s in splits]
    print(f"{'twins':10}" + "".join(f"{t:>10}" for t in twins))
    if args.out:
        named = dict(zip(("train", "public", "private"), splits, strict=True))
        counts = {k: torch.bincount(s.labels, minlength=len(CLASSES)).tolist() for k, s in named.items()}
        twin = {k: int(s.twin.sum()) for k, s in named.items() if s.twin is not None}
        record = {"kind": "data", **provenance(data.name, data.sha256), "counts": counts, "twins": twin}
        write_record(args.out, record | {"flaws": flaws(*splits)})


def computed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, help="each step one CUDA graph; GPU only")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="bfloat16; slower than float32 on a CPU that lacks it"
    )


def computed(args: argparse.Namespace) -> dict:
    """What the options say about how steps are computed, in place of the profile's."""
    return {k: v for k in ("compile", "graph", "bf16") if (v := getattr(args, k)) is not None}


def train_command(args: argparse.Namespace) -> None:
    config = profile(args.profile)
    network = PRESETS[args.preset].to_dict() if args.preset else dict(config.network)
    given = ("epochs", "batch", "lr", "margin", "seed", "loss", "schedule", "teach", "mixup", "sam")
    changes = {k: v for k in given if (v := getattr(args, k)) is not None}
    if args.loss:
        network["head"] = "cosine" if args.loss == "angular" else "linear"
    if args.arch == "resnet18":
        network = ResNetConfig(args.width).to_dict()
        changes |= {"loss": args.loss or "softmax"}
    changes |= computed(args)
    if args.crop is not None:
        changes["augmentation"] = replace(config.augmentation, crop=args.crop)
    config = replace(config, arch=args.arch, network=network, **changes)
    teachers = [load_network(path)[0] for path in args.teacher]
    _, record = fit(
        get_data(args.data),
        config,
        args.out,
        resume=args.resume,
        log=lambda line: print(line, flush=True),
        teachers=teachers,
        start=load_network(args.start)[0] if args.start else None,
    )
    if place()[0]:
        return  # of several processes the first one speaks
    print(f"best on the public test: {100 * record['best_public_accuracy']:.2f} % after epoch {record['best_epoch']}")
    print(f"checkpoint, state and record: {args.out}/")


def network(path: Path | None) -> tuple[torch.nn.Module, dict]:
    """A checkpoint's network for faces. Raises ValueError where its classes are not seven, or its answer is NaN."""
    net, meta = load_network(path)
    path = path or SHIPPED.name
    if net.config.classes != len(CLASSES):
        raise ValueError(f"{path}: the network tells {net.config.classes} classes apart, and faces here have 7")
    with torch.inference_mode():
        if not net(torch.rand(1, 1, SIZE, SIZE)).isfinite().all():  # though every weight is finite
            raise ValueError(f"{path}: the network's answer to a picture of noise is not finite; do not use it")
    return net, meta


def evaluate_command(args: argparse.Namespace) -> None:
    net, meta = network(args.checkpoint)
    data = get_data(args.data)
    if args.int8:
        net = accelerate(net, data.train.images[:256])
    record = {"kind": "evaluate", **provenance(data.name, data.sha256), "network": meta}
    record |= {"flip": args.flip, "int8": args.int8, "splits": {}}
    mirrored = (", on 8-bit integers" if args.int8 else "") + (", averaged with the mirror image" if args.flip else "")
    print(f"{args.checkpoint or SHIPPED.name} on {data.name}{mirrored}")
    for name in ("public", "private"):
        result = record["splits"][name] = evaluate_split(net, getattr(data, name), flip=args.flip)
        for part, s in result.items():
            low, high = s["wilson_95"]
            print(
                f"{name + ' test,':14} {part.replace('_', '-'):9}  {100 * s['accuracy']:.2f} %"
                f"  (95 %: {100 * low:.2f} to {100 * high:.2f}; {s['hits']:,} of {s['n']:,})"
            )
    per_class = record["splits"]["private"]["whole"]["per_class"]
    shown = (f"{name} {'-' if r is None else f'{100 * r:.2f} %'}" for name, r in per_class.items())
    print("private test per class: " + ", ".join(shown))
    if args.out:
        write_record(args.out, record)


def ablate_command(args: argparse.Namespace) -> None:
    changes = {k: v for k in ("epochs", "batch", "lr") if (v := getattr(args, k)) is not None}
    base = replace(profile(args.profile), **changes, **computed(args))
    if args.preset:
        base = replace(base, network=PRESETS[args.preset].to_dict())
    tables = list(TABLES) if "all" in args.table else list(dict.fromkeys(args.table))
    data = get_data(args.data)
    record = ablate(data, base, tables, args.seeds, args.runs, lambda line: print(line, flush=True), args.workers)
    drawn = {"drawn": args.data} if args.data and args.data.startswith("drawn") else {}
    record |= {"profile": args.profile, "preset": args.preset, **drawn}
    print(format_record(record))
    if args.out:
        write_record(args.out, record)


def inspect_command(args: argparse.Namespace) -> None:
    net, meta = network(args.checkpoint)
    data = get_data(args.data)
    found = inspect(net, data, args.faces, show=args.show, log=lambda line: print(line, flush=True))
    drawn = {"drawn": args.data} if (args.data or "").startswith("drawn") else {}
    write_record(args.out, {"kind": "inspect", **provenance(data.name, data.sha256), "network": meta, **drawn, **found})
    fit = found["calibration"]
    print(f"private test {100 * found['private']['accuracy']:.2f} %")
    print(f"calibration error {100 * fit['before']['ece']:.2f} points, and {100 * fit['after']['ece']:.2f}", end=" ")
    print(f"at temperature {fit['temperature']:.2f}, which fits the public test")


def bench_command(args: argparse.Namespace) -> None:
    if args.repeats < 1:
        raise ValueError(f"repeats = {args.repeats} must be at least 1")
    if args.graphs and not torch.cuda.is_available():
        raise ValueError("--graphs measures what CUDA graphs gain on a GPU, and torch sees none here")
    if args.graphs:
        save = (lambda found: write_record(args.out, found)) if args.out else (lambda found: None)
        record = bench_graphs(compiled=("lite",) if args.compile else (), save=save)
    elif args.gates:
        record = bench_gates(repeats=args.repeats)
    else:
        record = bench_scaling(args.repeats) if args.scaling else bench(args.batch, args.steps, args.repeats)
    if args.out:
        write_record(args.out, record)


def interpolate_command(args: argparse.Namespace) -> None:
    data = get_data(args.data)
    (a, _), (b, _) = (network(path) for path in args.checkpoints)
    net, found = interpolate(a, b, data, args.steps, lambda line: print(line, flush=True), args.rise)
    save_network(args.save, net, ends=found["ends"], share=found["best_share"])
    print(f"{args.save}: share {found['best_share']:.2f} of {args.checkpoints[1]}")
    if args.out:
        write_record(args.out, {"kind": "interpolate", **provenance(data.name, data.sha256), **found})


def shrink_command(args: argparse.Namespace) -> None:
    shrink(args.checkpoint, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


def export_command(args: argparse.Namespace) -> None:
    net, _ = network(args.checkpoint)
    name = Path(args.checkpoint).stem if args.checkpoint else "lite"
    path = SHIPPED if args.checkpoint is None else NAMES.get(str(args.checkpoint), args.checkpoint)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    export(net, args.out, args.inside, {"name": name, "checkpoint_sha256": digest})
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


def explore_command(args: argparse.Namespace) -> None:
    write_record(args.out, explore())


def promise_command(args: argparse.Namespace) -> None:
    record = promise(lambda line: print(line, flush=True))
    if args.out:
        write_record(args.out, record)


def report_command(args: argparse.Namespace) -> None:
    from . import report as pages  # imports seaborn, for which the other commands need not wait

    if args.out and not args.chapters:
        raise ValueError("--out records how long the chapters take, so they must run: leave --no-chapters out")
    if args.chapters:
        record = pages.run_chapters()
        if args.out:
            write_record(args.out, record)
    for path in pages.report():
        print(path)


def predict_command(args: argparse.Namespace) -> None:
    net, _ = network(args.checkpoint)
    found = predict(net, args.image)
    names = {"image": str(args.image), "checkpoint": str(args.checkpoint or SHIPPED.name)}
    print(json.dumps({**names, "probabilities": found}) if args.json else format_prediction(found))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mifad_lite", description="MIFAD-Net: train, evaluate, predict, measure.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def data_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", help="FER2013 (csv, archive, folder), drawn or drawn:N; found if not named")

    def out_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--out", type=Path, help="write the record here")

    data = command("data", data_command, "Read the data set, check it and count it.")
    data_option(data)
    out_option(data)

    train = command("train", train_command, "Train a network.")
    data_option(train)
    train.add_argument("--profile", default="cpu", choices=PROFILES)
    train.add_argument("--out", default="runs/train", type=Path, help="folder of checkpoint, state and record")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--arch", default="mifad", choices=("mifad", "resnet18"))
    train.add_argument("--preset", choices=PRESETS, help="size of MIFAD-Net, in place of the profile's")
    train.add_argument("--width", default=64, type=int, help="first stage of the ResNet")
    train.add_argument("--loss", choices=LOSSES)
    computed_options(train)
    train.add_argument("--schedule", choices=SCHEDULES)
    train.add_argument("--start", type=Path, help="a checkpoint whose weights it starts from, in place of random ones")
    train.add_argument("--teacher", default=[], type=Path, nargs="+", help="checkpoints whose answers it learns, too")
    for name in ("epochs", "batch", "seed"):
        train.add_argument(f"--{name}", type=int)
    for name in ("lr", "margin", "teach"):
        train.add_argument(f"--{name}", type=float)
    train.add_argument("--crop", type=int, help="side in pixels of the window that a step sees, 0 for whole faces")
    train.add_argument("--mixup", type=float, help="alpha of mixup, 0 for none; 1 makes every share as likely")
    train.add_argument("--sam", type=float, help="radius of sharpness-aware minimisation, 0 for none; twice the time")

    evaluate = command("evaluate", evaluate_command, "Accuracy on the public and the private test.")
    data_option(evaluate)
    evaluate.add_argument("--checkpoint", type=Path, help=ONES)
    evaluate.add_argument("--flip", action="store_true", help="average with the mirror image")
    evaluate.add_argument("--int8", action="store_true", help="on 8-bit integers, see mifad_lite/fast.py")
    out_option(evaluate)

    inside = command("inspect", inspect_command, "Calibration, mistakes, maps and lost parts of a network.")
    data_option(inside)
    inside.add_argument("--checkpoint", type=Path, help=ONES)
    inside.add_argument("--faces", default=100, type=int, help="faces of each class that get maps and a point")
    inside.add_argument("--show", action="store_true", help="keep pixels of seven faces, for drawn faces alone")
    inside.add_argument("--out", type=Path, required=True, help="write the record here")

    apart = command("ablate", ablate_command, "Train every arm of the paper's Tables 3 to 6 and of ours, and compare.")
    data_option(apart)
    apart.add_argument("--table", default=["all"], nargs="+", choices=("all", *TABLES))
    apart.add_argument("--profile", default="smoke", choices=PROFILES)
    apart.add_argument("--preset", choices=PRESETS, help="size of MIFAD-Net, in place of the profile's")
    apart.add_argument("--seeds", default=3, type=int, help="how often each arm is trained")
    apart.add_argument("--workers", default=1, type=int, help="runs at a time, each in a process of its own")
    apart.add_argument("--runs", default="runs/ablate", type=Path, help="a file for each run; those there are kept")
    computed_options(apart)
    for name, kind in (("epochs", int), ("batch", int), ("lr", float)):
        apart.add_argument(f"--{name}", type=kind)
    out_option(apart)

    measure = command("bench", bench_command, "Measure images per second, against the columns alone and a naive loop.")
    measure.add_argument("--batch", default=128, type=int)
    measure.add_argument("--steps", default=6, type=int, help="steps in a measured epoch")
    measure.add_argument("--repeats", default=3, type=int, help="times that each variant gets its turn")
    measure.add_argument(
        "--scaling", action="store_true", help="instead: against batch, width, resolution; attention; the peak"
    )
    measure.add_argument("--gates", action="store_true", help="instead, on a CPU: what subnormal numbers cost")
    measure.add_argument("--graphs", action="store_true", help="instead, on a GPU: with CUDA graphs and without")
    measure.add_argument("--compile", action="store_true", help="with --graphs: compiled, too, which takes a minute")
    out_option(measure)

    line = command("interpolate", interpolate_command, "Average two networks: the public test chooses the shares.")
    line.add_argument("checkpoints", type=Path, nargs=2, metavar="CHECKPOINT", help="of one configuration")
    data_option(line)
    line.add_argument("--steps", default=4, type=int, help="equal steps from the first network to the second")
    line.add_argument("--rise", default=0.0, type=float, metavar="RADIUS", help="how steep the ground is so far around")
    line.add_argument("--save", type=Path, required=True, help="write the network here")
    out_option(line)

    small = command("shrink", shrink_command, "Copy a checkpoint with its weights in 16 bits: half the size.")
    small.add_argument("checkpoint", type=Path)
    small.add_argument("--out", type=Path, required=True, help="write the smaller one here")

    away = command("export", export_command, "Write a network as ONNX (.onnx), or packed for a page of the book (.js).")
    away.add_argument("--checkpoint", type=Path, help=ONES)
    away.add_argument("--inside", action="store_true", help="maps, embedding and cosines are outputs, too")
    away.add_argument("--out", type=Path, required=True, help="write it here")

    look = command("explore", explore_command, "Record what the network computes inside, for the book's figures.")
    look.add_argument("--out", type=Path, required=True, help="write the record here")

    short = command("promise", promise_command, "Train two short runs with several seeds: where should yours land?")
    out_option(short)

    write = command("report", report_command, "Write every number, table and figure of the book from the records.")
    write.add_argument(
        "--chapters", action=argparse.BooleanOptionalAction, default=True, help="run the chapters too: minutes"
    )
    write.add_argument("--out", type=Path, help="write a record of how long each chapter took")

    guess = command("predict", predict_command, "Seven probabilities for the face in a picture.")
    guess.add_argument("image", type=Path, metavar="IMAGE", help="whatever Pillow reads; its central square is used")
    guess.add_argument("--checkpoint", type=Path, help=ONES)
    guess.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    return obey(make_parser().parse_args(argv))


def obey(args: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    try:
        if place()[1] > 1 and args.command != "train":
            raise ValueError("several processes can share a training run and nothing else: start it without torchrun")
        if args.command != "train":  # its output is a folder, which `fit` looks at
            for path in (getattr(args, "out", None), getattr(args, "save", None)):
                if path is not None:
                    check_place(path)
        args.run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt as stop:
        status, reason = 128 + (stop.args or (signal.SIGINT,))[0], "stopped by you; what was written is whole"
    except (ValueError, OSError, TrainingStopped, MemoryError, RuntimeError) as error:
        status, reason = 1, " ".join(str(error).splitlines())
        if isinstance(error, MemoryError) or "can't allocate" in reason or isinstance(error, torch.OutOfMemoryError):
            reason = "the memory is too small for this: lower the batch, the width or the number of faces"
        elif "InvalidCxxCompiler" in reason or "Failed to find C compiler" in reason:  # inductor's words, and triton's
            reason = "torch.compile needs a C++ compiler and finds none: install one, or leave --compile out"
        elif isinstance(error, RuntimeError) and not isinstance(error, TrainingStopped):
            raise  # a mistake of ours
        elif isinstance(error, OSError) and error.errno and not error.filename:
            reason = f"the output could not be written: {error.strerror}"
    if speaks():
        sys.stderr.write(f"mifad_lite {args.command}: {reason}\n")  # in one piece: torchrun mixes its own lines in
    return status


def stop(number: int, frame) -> None:
    """Ctrl-C, or the end of a job: `main` cleans up and says so. A second one is not waited for."""
    signal.signal(number, stop_at_once)
    raise KeyboardInterrupt(number)


def program() -> int:
    """The command line as a process of its own: it minds signals, and an output that nobody reads."""
    args = make_parser().parse_args()  # until here nothing is begun, and `stop_at_once` hears a signal
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    code = obey(args)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is done; Python needs a moment to end
    try:
        sys.stdout.flush()
    except OSError:  # told by `main`; at its end Python would try and tell again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(program())
