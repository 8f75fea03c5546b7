"""Numbers and pictures that prose shows, made from the committed records: python -m mifad_lite report.

In README.md, in the model card and in Markdown pages a number stands between markers:
`<!--r:KEY-->67.10 %<!--/r-->`. This module fills them in. A test fails where a page and the records disagree.
"""

import re
from pathlib import Path

from .checkpoint import DRAWN, SHIPPED
from .data import CLASSES
from .records import read_record, write_atomically
from .train import PROFILES

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "book/index.md", "mifad_lite/pretrained/README.md")
FIGURES = "book/_static/figures"
MARKER = re.compile(r"<!--r:([\w.]+)-->(.*?)<!--/r-->", re.DOTALL)


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
        "run.recipe": recipe(run["config"]),
        "data.sha256": run["data"]["sha256"],
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
        "drawn.private.interval": "{:.2f} to {:.2f} %".format(*(100 * limit for limit in fresh["wilson_95"])),
    }
    out |= {f"profile.{name}.epochs": str(config.epochs) for name, config in PROFILES.items()}
    for suffix, record in (("plain", read_record("cpu_evaluation")), ("flip", read_record("cpu_evaluation_flip"))):
        for split, parts in record["splits"].items():
            for part, s in parts.items():
                key = f"{suffix}.{split}.{part}"
                low, high = s["wilson_95"]
                out[key] = percent(s["accuracy"])
                out[f"{key}.interval"] = f"{100 * low:.2f} to {100 * high:.2f} %"
                out[f"{key}.n"] = f"{s['n']:,}"
        if suffix == "plain":
            out["plain.per_class"] = class_table(record["splits"]["private"])
    return out


def recipe(config: dict) -> str:
    """One line that says how a run was trained."""
    kind = f"{config['optimizer']}, {config['schedule']} to {config['lr']:g}, weight decay {config['weight_decay']:g}"
    loss = f"{config['loss']} loss"
    if config["loss"] == "angular":
        ramp = f"ramped over {100 * config['ramp']:.0f} % of the run"
        loss += f" (s = {config['network']['scale']:g}, m = {config['margin']:g} {ramp})"
    return f"{config['epochs']} epochs at batch {config['batch']}, {kind}, {loss}, seed {config['seed']}"


def class_table(parts: dict) -> str:
    rows = ["", "| emotion | images | whole | twin-free |", "|---|---:|---:|---:|"]
    for i, name in enumerate(CLASSES):
        whole, free = parts["whole"], parts["twin_free"]
        n = sum(whole["confusion"][i])
        rows.append(f"| {name} | {n} | {percent(whole['per_class'][name])} | {percent(free['per_class'][name])} |")
    return "\n".join([*rows, ""])


def bench_table(bench: dict) -> str:
    rows = ["", "| network | training, images/s | inference, images/s | one face, ms |", "|---|---:|---:|---:|"]
    inference = {row["name"]: row for row in bench["inference"]}
    training = {row["name"]: row for row in bench["training"]}
    for name in training | inference:
        t, i = training.get(name), inference.get(name)
        cells = f"{i['images_per_second']:,.0f} | {i['one_face_milliseconds']:.1f}" if i else " | "
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


def report(root: Path = ROOT) -> list[Path]:
    """Fill the pages and draw the figures under `root`; returns the files written."""
    from . import plots
    from .synthetic import synthetic_faces

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
        ("confusion", plots.confusion_matrix(evaluation["splits"]["private"]["whole"]["confusion"])),
    ):
        path = root / FIGURES / f"{name}.png"
        write_atomically(path, lambda p, f=figure: p.write_bytes(plots.png(f)))
        written.append(path)
    return written
