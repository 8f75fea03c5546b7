"""Tables 3 to 6 as controlled experiments: one knob at a time; one budget, data order and set of seeds for all arms.

An arm is one base `TrainConfig` with a change. Each run (an arm and a seed) leaves a small file of its own, so a grid
that is cut goes on where it stopped; arms that several tables share are trained once. `ablate` then puts all runs into
one record: accuracies, and paired tests on the private test. The epoch is chosen on the public test alone.
"""

import hashlib
import json
import math
import shutil
import signal
from bisect import bisect
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import RLock, current_thread, main_thread

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .augment import Augmentation
from .baseline import ResNetConfig
from .checkpoint import build
from .data import FaceData, FaceSet
from .evaluate import Z95, holm, mcnemar_test, pack_hits, paired_bootstrap, predict_logits, unpack_hits
from .model import MIFADConfig, MIFADNet
from .records import provenance, read_record, write_record
from .train import TrainConfig, TrainingStopped, fit

TABLES = {
    "loss": "the paper's Table 3: what is minimised",
    "branches": "the paper's Table 4: how many columns",
    "attention": "the paper's Table 5: which attention",
    "fusion": "the paper's Table 6: how the columns are spliced",
    "matched": "ours: is it the branch, the mix of kernels, or the number of parameters?",
    "rivals": "ours: against the columns alone, and a ResNet-18 with as many parameters, both with softmax",
    "margin": "ours: the margin m of the angular loss, in radians",
    "scale": "ours: the scale s of the angular loss",
    "recipe": "ours: what each part of the training recipe buys",
}
# The orderings that the paper states (its absolute numbers stand only in images): table, better arm, worse arm.
# "Four branches do not help" is no ordering but a bound: it holds where four gain less than WORTH.
CLAIMS = (
    ("loss", "angular", "island"),
    ("loss", "island", "center"),
    ("loss", "center", "softmax"),
    ("branches", "3", "2"),
    ("branches", "4", "3"),
    ("attention", "both", "none"),
    ("fusion", "concat", "add"),
    ("fusion", "add", "mul"),
)
NO_GAIN = ("branches", "4", "3")
WORTH = 0.01  # a gain of less than one point is none (our decision)
LEVEL = 0.05
VERDICTS = ("holds", "does not hold", "cannot be decided")


# --- the grid --------------------------------------------------------------------------------------------------------


def arms(table: str, base: TrainConfig) -> tuple[str, dict[str, TrainConfig]]:
    """The reference arm's name and {arm: configuration} of a table.

    Raises ValueError for an unknown table, and for one about the angular loss on a base with another.
    """
    network, angular = base.network, base.loss == "angular"
    if table in ("loss", "margin", "scale") and not angular:
        raise ValueError(f"the table {table} is about the angular loss, and the base has {base.loss}: leave it out")

    def bent(**changes) -> TrainConfig:
        return replace(base, network={**network, **changes})

    if table == "loss":
        rivals = {
            loss: replace(base, loss=loss, network={**network, "head": "linear"})
            for loss in ("softmax", "center", "island")
        }
        return "angular", {**rivals, "angular": base}
    if table == "branches":
        return "3", {"2": columns(base, (3, 5)), "3": base, "4": columns(base, (3, 5, 7, 9))}
    if table == "attention":
        kinds = ("none", "channel", "spatial", "both")
        return network["attention"], {kind: bent(attention=kind) for kind in kinds}
    if table == "fusion":
        return network["fusion"], {kind: bent(fusion=kind) for kind in ("concat", "add", "mul")}
    if table == "matched":
        rivals = {"2 wide": (3, 5), "4 thin": (3, 5, 7, 9), "3 alike": (5, 5, 5)}
        return "3", {"3": base, **{name: matched(base, kernels) for name, kernels in rivals.items()}}
    if table == "rivals":
        alone = replace(base, arch="columns", loss="softmax", network={**network, "head": "linear"})
        return "MIFAD-Net", {"MIFAD-Net": base, "columns alone": alone, "ResNet-18": matched_resnet(base)}
    if table == "margin":
        values = sorted({0.0, 0.1, 0.2, 0.3, 0.5, base.margin})
        return f"{base.margin:g}", {f"{m:g}": replace(base, margin=m) for m in values}
    if table == "scale":
        values = sorted({4.0, 8.0, 16.0, 32.0, float(network["scale"])})
        return f"{network['scale']:g}", {f"{s:g}": bent(scale=s) for s in values}
    if table == "recipe":
        without = {
            "no augmentation": {"augmentation": Augmentation.none()},
            "no average": {"ema": 0.0},
            **({"no margin ramp": {"ramp": 0.0}} if angular else {}),  # no other loss has a margin
            "constant rate": {"schedule": "constant"},
            "the paper's": {"optimizer": "adam", "lr": 1e-3, "schedule": "constant", "weight_decay": 0.0},
        }
        return "all of it", {"all of it": base, **{name: replace(base, **change) for name, change in without.items()}}
    raise ValueError(f"there is no table {table!r}: use all or one of {', '.join(TABLES)}")


def columns(base: TrainConfig, kernels: tuple[int, ...], factor: float = 1.0) -> TrainConfig:
    """The base with these columns. A kernel keeps its column's widths; a new one takes the nearest column's."""
    old = MIFADConfig(**base.network)
    by_kernel = dict(zip(old.kernel_sizes, old.column_widths(), strict=True))
    new = [by_kernel[min(by_kernel, key=lambda have: abs(have - k))] for k in kernels]
    new = [tuple(max(1, round(factor * w)) for w in row) for row in new]
    return replace(base, network={**base.network, "kernel_sizes": tuple(kernels), "widths": tuple(new)})


def matched(base: TrainConfig, kernels: tuple[int, ...]) -> TrainConfig:
    """The base with these columns, made wider or thinner by one factor until the parameters are as many as before."""
    options = {(c := columns(base, kernels, f)).network["widths"]: c for f in np.arange(0.3, 3.0, 0.01)}
    return nearest(list(options.values()), base)


def matched_resnet(base: TrainConfig) -> TrainConfig:
    """A ResNet-18, just so wide that it has about as many parameters as the base, trained alike but with softmax."""
    alike = replace(base, arch="resnet18", loss="softmax", network=ResNetConfig().to_dict())
    return nearest([replace(alike, network=ResNetConfig(width).to_dict()) for width in range(1, 97)], base)


def nearest(options: list[TrainConfig], base: TrainConfig) -> TrainConfig:
    """Of options that grow, the one whose parameters are closest to the base's."""
    target = parameters(base)
    above = bisect(options, target, key=parameters)
    return min(options[max(0, above - 1) : above + 1], key=lambda config: abs(parameters(config) - target))


def parameters(config: TrainConfig) -> int:
    with torch.device("meta"):  # shapes without memory
        return sum(p.numel() for p in build(config.arch, config.network).parameters())


def run_name(config: TrainConfig, data_sha256: str) -> str:
    """What a reader can tell apart, then a hash of all the rest (the seed aside)."""
    net = config.network
    if config.arch == "mifad":
        kernels = "-".join(map(str, net["kernel_sizes"]))
        knobs = (config.loss, kernels, net["attention"], net["fusion"], f"m{config.margin:g}", f"s{net['scale']:g}")
    else:
        knobs = (config.loss, config.arch)
    whole = json.dumps([replace(config, seed=0).to_dict(), data_sha256], sort_keys=True)
    return "_".join((*knobs, hashlib.sha256(whole.encode()).hexdigest()[:8]))


def changes(config: dict, base: dict) -> dict:
    """The fields of a configuration that differ from the base's, the seed aside."""
    nested = {"network": changes(config["network"], base["network"])} if "network" in config else {}
    flat = {k: v for k, v in config.items() if k not in ("network", "seed") and v != base.get(k)}
    return flat | {k: v for k, v in nested.items() if v}


# --- one run ---------------------------------------------------------------------------------------------------------


def run(data: FaceData, config: TrainConfig, folder: Path, log: Callable[[str], None]) -> dict:
    """Train one arm with one seed, unless its file is there; an interrupted run goes on at its last whole epoch."""
    stem = f"{run_name(config, data.sha256)}_seed{config.seed}"
    file, unfinished = folder / f"{stem}.json", folder / f"{stem}.unfinished"
    if file.exists():
        kept = read_record(file)
        if not is_run_of(kept, {"public": data.public, "private": data.private}):
            raise ValueError(f"{file}: this is not a finished run on these data; remove it, and the run is made again")
        if kept["config"] != config.to_dict():
            raise ValueError(f"{file}: this run has another configuration; remove it, and the run is made again")
        return kept
    net, trained = fit(data, config, unfinished, resume=True, progress=False)
    splits = {"public": data.public, "private": data.private}
    blocks = [fusion.attention for fusion in net.fusions] if isinstance(net, MIFADNet) else []
    result = {
        **{key: trained[key] for key in ("commit", "data", "device", "versions", "date", "config", "seed")},
        "kind": "ablation run",
        "parameters": sum(p.numel() for p in net.parameters()),
        "best_epoch": trained["best_epoch"],
        "seconds": trained["seconds"],
        "public_by_epoch": [e["public_accuracy"] for e in trained["epochs"]],
        # One digit an image, the class that the network of the best epoch answers.
        "predicted": {
            name: "".join(map(str, predict_logits(net, faces.images).argmax(1).tolist()))
            for name, faces in splits.items()
        },
        # The weights of what the two attentions add, at depths 4, 5 and 6. They start at 0.
        "alpha": learned([b.channel for b in blocks], "alpha"),
        "beta": learned([b.spatial for b in blocks], "beta"),
    }
    write_record(file, result)
    shutil.rmtree(unfinished, ignore_errors=True)
    public = hits_of(result, "public", data.public.labels).mean()
    log(f"{stem}: public test {100 * public:.2f} %, epoch {result['best_epoch']}, {result['seconds']:.0f} s")
    return result


# What the summary of an arm takes from each run as it stands there.
KEPT = ("best_epoch", "public_by_epoch", "seconds", "alpha", "beta")


def is_run_of(kept, splits: dict[str, FaceSet]) -> bool:
    """Whether a file holds what `run` writes, with a digit for each image."""
    keys = {"parameters", "predicted", "config", "commit", "device", *KEPT}
    if not isinstance(kept, dict) or not keys <= kept.keys() or not isinstance(kept["predicted"], dict):
        return False
    texts = [(str(kept["predicted"].get(name)), faces) for name, faces in splits.items()]
    return all(text.isdecimal() and len(text) == len(faces) for text, faces in texts)


def undisturbed(start: Callable):
    """Call `start`, whose new processes do not hear Ctrl-C, not even while they import: the first process ends them."""
    if current_thread() is not main_thread():
        return start()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits this
    try:
        return start()
    finally:
        signal.signal(signal.SIGINT, before)


def start_worker(data: FaceData, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(RLock())  # its own is a semaphore of the system, which would outlive a worker that is ended
    work.fixed = data, folder, partial(print, flush=True)


def work(config: TrainConfig) -> dict:
    """`run` in a process of its own."""
    data, folder, log = work.fixed
    return run(data, config, folder, log)


def learned(blocks: list[nn.Module | None], name: str) -> list[float] | None:
    return None if not blocks or blocks[0] is None else [round(getattr(block, name).item(), 5) for block in blocks]


def hits_of(result: dict, split: str, labels: Tensor) -> np.ndarray:
    """bool (N,): where a run's answers are right."""
    return np.frombuffer(result["predicted"][split].encode(), np.uint8) - ord("0") == labels.numpy()


# --- the record ------------------------------------------------------------------------------------------------------


def arm_hits(record: dict, table: str, arm: str) -> np.ndarray:
    """bool (seeds, N): where an arm of an `ablate` record is right on the private test."""
    packed = record["runs"][record["tables"][table]["arms"][arm]]["private_hits"]
    return np.stack([unpack_hits(text, record["sizes"]["private"]) for text in packed])


def luck(accuracies: np.ndarray) -> float:
    """What is left of the spread between runs, as a standard deviation, after each arm's and each seed's mean.

    accuracies: (arms, seeds), on one and the same test. All arms see the same seeds, so a seed that is kind to all does
    not count: a randomised block design. The arms share one number, since each alone tells little. 0 without repeats.
    """
    freedom = (accuracies.shape[0] - 1) * (accuracies.shape[1] - 1)
    rest = accuracies - accuracies.mean(0) - accuracies.mean(1, keepdims=True) + accuracies.mean()
    return float((np.square(rest).sum() / freedom) ** 0.5) if freedom else 0.0


def compare(hits_a: np.ndarray, hits_b: np.ndarray, spread: float = 0.0) -> dict:
    """bool (seeds, N) of two arms -> a minus b, asked in three ways.

    "interval_95", "p": would it be so on other images and with other seeds? The variance over the images plus that of
        two means of S runs, each run with the standard deviation `spread` (see `luck`); normal.
    "images": on other images, with these networks? By the bootstrap, averaged over the seeds.
    "mcnemar": seed by seed, are these two networks different on these images?
    """
    d = hits_a.mean(0) - hits_b.mean(0)  # (N,)
    error = math.hypot(d.std() / len(d) ** 0.5, spread * (2 / len(hits_a)) ** 0.5)
    middle = float(d.mean())
    return {
        "difference": middle,
        "interval_95": [middle - Z95 * error, middle + Z95 * error],
        "p": math.erfc(abs(middle) / error / 2**0.5) if error else 1.0,
        "images": paired_bootstrap(hits_a, hits_b),
        "by_seed": (hits_a.mean(1) - hits_b.mean(1)).tolist(),
        "mcnemar": [mcnemar_test(a, b) for a, b in zip(hits_a, hits_b, strict=True)],
    }


def verdict(test: dict, p: float, no_gain: bool = False) -> str:
    """What a comparison says about "a is better than b" (with `no_gain`: "a does not help over b").

    test: from `compare`.  p: its "p", corrected for the number of claims.
    """
    seen, better = p < LEVEL, test["difference"] > 0
    if no_gain and not (seen and better):
        return VERDICTS[0] if test["interval_95"][1] < WORTH else VERDICTS[2]
    return VERDICTS[2] if not seen else VERDICTS[better == no_gain]


def judge(hits: Callable[[str, str], np.ndarray], tables: list[str], spread: float) -> list[dict]:
    """The paper's claims in these tables with their tests, p values corrected by Holm's method, and verdicts.

    With one seed the luck of a run is unknown, so nothing can be decided.
    """
    claims = [claim for claim in CLAIMS if claim[0] in tables]
    pairs = [(hits(table, better), hits(table, worse)) for table, better, worse in claims]
    tests = [compare(*pair, spread) for pair in pairs]
    adjusted = holm([t["p"] for t in tests])
    return [
        {
            **dict(zip(("table", "better", "worse"), claim, strict=True)),
            **test,
            "p_holm": p,
            "verdict": verdict(test, p, claim == NO_GAIN) if len(pair[0]) > 1 else VERDICTS[2],
        }
        for claim, pair, test, p in zip(claims, pairs, tests, adjusted, strict=True)
    ]


def ablate(
    data: FaceData,
    base: TrainConfig,
    tables: list[str],
    seeds: int,
    folder: Path,
    log: Callable[[str], None] = print,
    workers: int = 1,
) -> dict:
    """Run every arm of `tables` with seeds 0 .. seeds - 1 and return the record.

    folder: where each run leaves its file. A run whose file is there is not repeated.
    workers: processes that train a run each, with an equal part of torch's threads. Small networks gain from it.
    Raises ValueError for an unknown table, no seed or no worker; TrainingStopped where a run blows up.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and the runs need a folder: name another one")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds} must be at least 1")
    if workers < 1:
        raise ValueError(f"workers = {workers} must be at least 1")
    grid = {table: arms(table, base) for table in tables}
    configs = {run_name(c, data.sha256): c for _, named in grid.values() for c in named.values()}
    log(f"{len(configs)} arms, {seeds} seeds each, {base.epochs} epochs on {data.name}")
    # All arms with one seed, then the next: a cut grid compares like with like.
    jobs = [replace(config, seed=seed) for seed in range(seeds) for config in configs.values()]
    if workers == 1:
        results = [run(data, job, folder, log) for job in jobs]
    else:
        threads = max(1, torch.get_num_threads() // workers)
        with ProcessPoolExecutor(workers, get_context("spawn"), start_worker, (data, folder, threads)) as pool:
            results = []
            try:
                for future in undisturbed(lambda: [pool.submit(work, job) for job in jobs]):
                    results.append(future.result())
                    log(f"{len(results)} of {len(jobs)} runs")
            except KeyboardInterrupt:
                for child in active_children():  # which the pool would wait for
                    child.terminate()
                raise
            except BrokenProcessPool:
                raise TrainingStopped("a run's process died; is the memory too small for so many workers?") from None
            except Exception:
                pool.shutdown(cancel_futures=True)  # what has not begun
                raise
    runs = {name: results[i :: len(configs)] for i, name in enumerate(configs)}

    labels = data.private.labels
    private = {name: np.stack([hits_of(r, "private", labels) for r in found]) for name, found in runs.items()}
    twin = data.private.twin
    twin_free = None if twin is None or not twin.any() else ~twin.numpy()

    classes = base.network["classes"]

    def summary(name: str, found: list[dict]) -> dict:
        accuracy = {
            "public": [float(hits_of(r, "public", data.public.labels).mean()) for r in found],
            "private": private[name].mean(1).tolist(),
        }
        if twin_free is not None:
            accuracy["private_twin_free"] = private[name][:, twin_free].mean(1).tolist()
        return {
            "parameters": found[0]["parameters"],
            "changes": changes(found[0]["config"], base.to_dict()),
            "accuracy": accuracy,
            "mean": {part: float(np.mean(values)) for part, values in accuracy.items()},
            **{key: [r[key] for r in found] for key in (*KEPT, "commit")},
            "private_hits": [pack_hits(h) for h in private[name]],
            "private_answers": [[r["predicted"]["private"].count(str(c)) for c in range(classes)] for r in found],
        }

    spread = luck(np.stack([h.mean(1) for h in private.values()]))
    record = {
        "kind": "ablation",
        **provenance(data.name, data.sha256),
        "device": runs[next(iter(runs))][0]["device"],
        "sizes": {"train": len(data.train), "public": len(data.public), "private": len(data.private)},
        "epochs": base.epochs,
        "base": {**base.to_dict(), "seed": None},
        "seeds": list(range(seeds)),
        "seconds": round(sum(r["seconds"] for found in runs.values() for r in found), 1),
        "luck": spread,
        "runs": {name: summary(name, found) for name, found in runs.items()},
        "tables": {},
    }
    for table, (reference, named) in grid.items():
        keys = {arm: run_name(config, data.sha256) for arm, config in named.items()}
        middle = private[keys[reference]]
        against = {arm: compare(private[k], middle, spread) for arm, k in keys.items() if arm != reference}
        record["tables"][table] = {"reference": reference, "arms": keys, "minus_reference": against}
    record["claims"] = judge(lambda table, arm: private[record["tables"][table]["arms"][arm]], list(grid), spread)
    return record


def format_record(record: dict) -> str:
    """The record as lines of text: every table, then the paper's claims."""
    lines = [f"a run's luck has a standard deviation of {100 * record['luck']:.2f} points"]
    if len(record["seeds"]) == 1:
        lines = ["one seed: the luck of a run was not measured"]
    for table, content in record["tables"].items():
        lines.append(f"{table} (minus {content['reference']}), accuracy on the private test")
        for arm, key in content["arms"].items():
            mean = 100 * record["runs"][key]["mean"]["private"]
            line = f"  {arm:16}{record['runs'][key]['parameters']:>11,} parameters  {mean:6.2f} %"
            if test := content["minus_reference"].get(arm):
                low, high = (100 * v for v in test["interval_95"])
                line += f"  {100 * test['difference']:+6.2f} points (95 %: {low:+.2f} to {high:+.2f})"
            lines.append(line)
    for c in record["claims"]:
        said = "does not help over" if (c["table"], c["better"], c["worse"]) == NO_GAIN else "beats"
        lines.append(f"{c['table']}: {c['better']} {said} {c['worse']}: {c['verdict']} (p = {c['p_holm']:.3f})")
    return "\n".join(lines)
