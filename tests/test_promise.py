"""The promise of the reproduction page: a fresh short run lands in the committed band, and the band could be missed."""

import math
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import mifad_lite.__main__ as cli
from mifad_lite import TrainConfig, checkpoint, fit, profile, promise, synthetic_data, synthetic_faces
from mifad_lite.evaluate import accuracy, predict_logits
from mifad_lite.records import read_record


@pytest.fixture(scope="module")
def record():
    return read_record("promise")


def options(command):
    """What follows `python -m mifad_lite`."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "mifad_lite"]
    return words[3:]


@pytest.mark.parametrize("name", promise.RUNS)
def test_a_fresh_run_lands_in_its_band(name, record, tmp_path):
    """The two commands of the page, with the seed that none of the record's runs had. The slow test of this file."""
    run = record["runs"][name]
    assert 0 not in run["seeds"]
    cli.main([*options(run["train"]), "--out", str(tmp_path)])
    trained = read_record(tmp_path / "record.json")
    assert trained["seed"] == 0
    made = TrainConfig(**run["config"] | {"seed": 0}).to_dict()  # a setting that came later has its default
    assert trained["config"] == made, "the profile has changed: run `promise` again"
    assert trained["data"] == record["data"], "the drawn faces have changed: run `promise` again"

    best = ["--checkpoint", str(tmp_path / "best.safetensors"), "--out", str(tmp_path / "evaluation.json")]
    cli.main([*options(run["evaluate"]), *best])
    private = read_record(tmp_path / "evaluation.json")["splits"]["private"]["whole"]
    low, high = run["band"]
    assert low <= private["accuracy"] <= high
    assert private["n"] == record["private"]


def test_the_option_means_the_faces(monkeypatch):
    monkeypatch.setattr(cli, "synthetic_data", lambda train, **rest: {"train": train, **rest})
    assert cli.get_data(promise.DATA) == promise.FACES


def students_interval(accuracies):
    """The 99 % prediction interval of one more draw, from SciPy's quantile and NumPy's moments."""
    n, x = len(accuracies), np.array(accuracies)
    half = stats.t.ppf(0.995, n - 1) * x.std(ddof=1) * math.sqrt(1 + 1 / n)
    return np.clip([x.mean() - max(half, 0.02), x.mean() + max(half, 0.02)], 0, 1)


def test_the_recorded_bands_follow_from_the_recorded_runs(record):
    assert record["runs"].keys() == promise.RUNS.keys()
    for run in record["runs"].values():
        assert run["band"] == pytest.approx(students_interval(run["accuracy"]), abs=1e-5)
        assert len(run["accuracy"]) == len(run["seconds"]) == len(run["seeds"]) >= 4
    assert record["seconds"] == pytest.approx(sum(sum(run["seconds"]) for run in record["runs"].values()), abs=0.1)


@pytest.mark.parametrize("n", range(2, 11))
def test_the_band_is_students(n):
    accuracies = np.random.default_rng(n).normal(0.5, 0.02, n).tolist()
    assert promise.band(accuracies) == pytest.approx(students_interval(accuracies), abs=2e-5)


def test_the_band_holds_what_it_says():
    """Of runs that scatter normally, it misses one in a hundred."""
    draws = np.random.default_rng(0).normal(0.5, 0.04, size=(4000, 5))
    bands = np.array([promise.band(row) for row in draws[:, :4].tolist()])
    missed = ((draws[:, 4] < bands[:, 0]) | (draws[:, 4] > bands[:, 1])).mean()
    assert 0.005 < missed < 0.015


def test_bands_at_the_edges():
    assert promise.band([0.5, 0.5, 0.5]) == pytest.approx((0.48, 0.52))
    assert promise.band([0.99, 0.99, 0.995]) == (pytest.approx(0.9586, abs=1e-4), 1.0)
    for runs in ([], [0.5], [0.5] * 11):
        with pytest.raises(ValueError, match=f"{len(runs)} runs: a band needs 2 to 10"):
            promise.band(runs)


@pytest.mark.parametrize("name", promise.RUNS)
def test_an_untrained_network_misses_the_band(name, record):
    config = record["runs"][name]["config"]
    faces = synthetic_faces(350, intra=promise.FACES["intra"], inter=promise.FACES["inter"])
    low, _ = record["runs"][name]["band"]
    for seed in range(3):
        torch.manual_seed(seed)
        net = checkpoint.build(config["arch"], config["network"])
        assert accuracy(predict_logits(net, faces.images), faces.labels) < low
    assert record["chance"] == 1 / 7 < low - 0.1


def test_promise_measures_each_seed(monkeypatch, capsys, tmp_path):
    """The record of two tiny runs, and the command; each accuracy is that of a run made by hand."""
    faces = {"train": 32, "public": 14, "private": 21}
    short = profile("smoke", epochs=1, batch=16)
    monkeypatch.setattr(promise, "FACES", faces)
    monkeypatch.setattr(promise, "RUNS", {"short": ("--profile smoke", short, 2)})
    assert cli.main(["promise", "--out", str(tmp_path / "promise.json")]) == 0
    record, lines = read_record(tmp_path / "promise.json"), capsys.readouterr().out.splitlines()
    run, data = record["runs"]["short"], synthetic_data(**faces)
    for seed, found, line in zip((1, 2), run["accuracy"], lines, strict=False):
        net, _ = fit(data, replace(short, seed=seed), device="cpu")
        assert found == accuracy(predict_logits(net, data.private.images), data.private.labels)
        assert line.startswith(f"short  seed {seed}: private test {100 * found:.2f} %")
    low, high = (100 * limit for limit in run["band"])
    assert lines[2:] == [f"short  one more run: {low:.1f} to {high:.1f} %"]
    assert record["data"]["sha256"] == data.sha256
    assert record["private"] == 21
