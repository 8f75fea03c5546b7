"""A few draws from every row of the table of faults (tests/faults.py), and a short soak (tests/soak.py)."""

import json
import pickle
import re

import faults
import numpy as np
import pytest
import soak
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from mifad_lite.records import RESULTS
from mifad_lite.train import TrainingStopped

FAST = [name for name, row in faults.KINDS.items() if not row.slow]
TRAINS = ("state_damaged", "state_altered", "disk_full", "not_permitted", "options_junk")


@pytest.mark.parametrize("name", FAST)
def test_fault(name):
    @seed(0)
    @settings(max_examples=2 if name in TRAINS else 3, deadline=None, suppress_health_check=[*HealthCheck])
    @given(draw=st.integers(0, 2**40))
    def drawn(draw):
        result, reason = faults.outcome(faults.KINDS[name], draw)
        assert result not in faults.DEFECTS, f"{result}: {reason}"

    drawn()


NUMBERS = st.integers(-3, 60) | st.integers() | st.floats(-0.5, 2) | st.floats() | st.booleans() | st.none()
VALUES = NUMBERS | st.text(max_size=9) | st.lists(NUMBERS, max_size=7) | st.lists(st.integers(1, 5), max_size=7)
BASE = faults.asdict(faults.TrainConfig(network=faults.MINI.to_dict(), bf16=False))
PLACES = [("network", name) for name in BASE["network"]] + [("augmentation", name) for name in BASE["augmentation"]]
PLACES += [(None, name) for name in BASE if name != "compile"]


@settings(max_examples=25, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
@example(place=("network", "kernel_sizes"), value=[2])
@example(place=(None, "lr"), value=42912)
@example(place=("network", "channels"), value=3646)
def test_a_configuration_is_refused_by_name_or_trains(place, value):
    part, name = place
    changed = {name: value} if part is None else {part: {**BASE[part], name: value}}
    try:
        faults.one_epoch(faults.TrainConfig(**{**BASE, **changed}))
    except (ValueError, TrainingStopped) as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert {name, name.removesuffix("s"), "width", "loss"} & set(re.findall(r"\w+", str(error)))  # noqa: PT017


@pytest.mark.parametrize("name", ["output_closed", "interrupted"])
def test_fault_of_a_process(name, monkeypatch):
    monkeypatch.setattr(faults, "duration", lambda command: 5.0)  # seconds; the record measures them
    result, reason = faults.outcome(faults.KINDS[name], 1)
    assert result not in faults.DEFECTS, f"{result}: {reason}"


def test_a_disk_of_its_own_runs_full():
    if not faults.can_mount():
        pytest.skip("needs the right to make a file system (root on Linux)")
    for draw in range(3):
        result, reason = faults.outcome(faults.KINDS["disk_of_its_own"], draw)
        assert result not in faults.DEFECTS, f"{result}: {reason}"


def a_case(work, **more):
    return faults.Case(["data"], **{"names": ("--data",), "writes": ("out.json",)} | more)


@pytest.mark.parametrize(
    ("result", "printed", "err", "makes", "more", "verdict"),
    [
        (0, "", "", None, {}, "accepted"),
        (0, "", "", "out.json", {}, "accepted"),
        (1, "", "mifad_lite data: --data is bad\n", None, {}, "refused"),
        (SystemExit(2), "", "usage: mifad_lite data\nmifad_lite data: error\n", None, {}, "refused"),
        (0, "", "", None, {"must": "refused"}, "missed"),
        (1, "", "mifad_lite data: --data is bad\n", None, {"must": "accepted"}, "wrong"),
        (0, "nonsense", "", None, {"valid": lambda printed: "right" in printed}, "wrong"),
        (1, "", "mifad_lite data: something is bad\n", None, {}, "unclear"),
        (1, "", "mifad_lite data: --data is\nbad\n", None, {}, "unclear"),
        (1, "", "mifad_lite train: --data is bad\n", None, {}, "unclear"),
        (1, "", "", None, {}, "unclear"),
        (3, "", "mifad_lite data: --data is bad\n", None, {}, "unclear"),
        (-9, "", "", None, {}, "unclear"),
        (KeyError("x"), "", "", None, {}, "traceback"),
        (1, "", "Traceback (most recent call last):\n", None, {}, "traceback"),
        (0, "", "", "other.json", {}, "half_written"),
        (0, "", "", ".out.json.123", {"writes": ("*",)}, "half_written"),
        (0, "", "", "out.json half", {}, "half_written"),
        (1, "", "mifad_lite data: --data is bad\n", "out.json", {}, "half_written"),
        (0, "", "", "gone", {}, "half_written"),
        (0, "", "", "mark", {}, "executed"),
    ],
)
def test_the_judge(result, printed, err, makes, more, verdict, tmp_path):
    """The judge of the table is strict: each way to be wrong has its name."""
    (tmp_path / "kept").write_text("kept")
    before = faults.snapshot(tmp_path)
    if makes == "gone":
        (tmp_path / "kept").unlink()
    elif makes:
        (tmp_path / makes.split()[0]).write_text('{"half' if "half" in makes else "{}")
    assert faults.judge(a_case(tmp_path, **more), tmp_path, before, result, printed, err)[0] == verdict


def test_the_trap_works(tmp_path):
    """What the table calls code in a file would really run."""
    pickle.loads(pickle.dumps(faults.Trap(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_an_output_below_python_is_seen():
    result, out, err = faults.captured(lambda: (print("a"), faults.os.write(2, b"b"))[1])
    assert (result, out, err) == (1, "a\n", "b")


def test_draws_repeat(tmp_path):
    for name in ("table_flipped", "pickle_inside"):
        made = []
        for number in range(2):
            (tmp_path / f"{name}{number}").mkdir()
            faults.KINDS[name].make(np.random.default_rng(3), tmp_path / f"{name}{number}")
            files = sorted((tmp_path / f"{name}{number}").rglob("*.*"))
            made.append([(path.name, len(path.read_bytes())) for path in files])
        assert made[0] == made[1]
        assert made[0]


def test_a_short_soak():
    record = soak.soak(epochs=4, kills=2, seed=0, log=lambda line: None)
    assert soak.passed(record, kills=2), record
    assert record["left_behind"] == record["while_writing"] == 1


def test_the_record_holds_no_defect():
    record = json.loads((RESULTS / "faults.json").read_text())
    assert list(record["kinds"]) == list(faults.KINDS), "run tests/faults.py again"
    assert record["defects"] == []
    for counts in record["kinds"].values():
        assert counts["tried"] == sum(counts[name] for name in faults.OUTCOMES) > 0
        assert not any(counts[name] for name in faults.DEFECTS)


def test_the_long_soak_held():
    record = json.loads((RESULTS / "soak.json").read_text())
    assert record["epochs"] >= 200
    assert record["kills"] >= 20
    assert record["memory"][-1][0] == record["epochs"]
    assert soak.passed(record, record["kills"])
