"""Ablations: one knob an arm, shared arms trained once, cut grids that go on, and a record that can be recomputed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

import mifad_lite.__main__ as cli
from mifad_lite import MIFADConfig, MIFADNet, TrainConfig, ablate, fit, profile, synthetic_data
from mifad_lite.ablate import CLAIMS, NO_GAIN, TABLES, VERDICTS, arms, parameters, run_name, verdict
from mifad_lite.evaluate import holm, mcnemar_test, paired_bootstrap, predict_logits
from mifad_lite.model import PRESETS
from mifad_lite.records import read_record
from mifad_lite.train import TrainingStopped

MINI = MIFADConfig(widths=(2, 2, 4, 4, 4, 4), channels=4, embedding=8)
BASE = TrainConfig(network=MINI.to_dict(), epochs=2, batch=16, lr=0.01, bf16=False)
LITE = profile("cpu")


@pytest.fixture(scope="module")
def data():
    faces = synthetic_data(32, 14, 21, intra=0.2, inter=0.1)
    faces.private.twin = torch.arange(21) < 6
    return faces


@pytest.fixture(scope="module")
def grid(data, tmp_path_factory):
    """A finished grid of two tables with two seeds: its folder, its record, what it said."""
    folder, lines = tmp_path_factory.mktemp("ablate") / "runs", []
    record = ablate.ablate(data, BASE, ["attention", "fusion"], 2, folder, lines.append)
    return folder, record, lines


# --- the arms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [BASE, LITE, profile("gpu", margin=0.25)])
@pytest.mark.parametrize("table", TABLES)
def test_arms_change_one_knob(table, base):
    reference, named = arms(table, base)
    assert named[reference] == base
    for arm, config in named.items():
        if table == "rivals" and arm == "ResNet-18":  # another network whole: what is left must be the same
            assert {k for k, v in config.to_dict().items() if v != base.to_dict()[k]} == {"arch", "loss", "network"}
            continue
        changed = {k for k in base.to_dict() if k != "network" and config.to_dict()[k] != base.to_dict()[k]}
        net = {k for k in base.network if config.to_dict()["network"][k] != base.to_dict()["network"][k]}
        allowed, allowed_net = {
            "loss": ({"loss"}, {"head"}),
            "branches": (set(), {"kernel_sizes", "widths"}),
            "attention": (set(), {"attention"}),
            "fusion": (set(), {"fusion"}),
            "matched": (set(), {"kernel_sizes", "widths"}),
            "rivals": ({"arch", "loss"}, {"head"}),
            "margin": ({"margin"}, set()),
            "scale": (set(), {"scale"}),
            "recipe": ({"augmentation", "ema", "ramp", "schedule", "optimizer", "lr", "weight_decay"}, set()),
        }[table]
        assert changed <= allowed
        assert net <= allowed_net
        assert arm == reference or changed | net
        MIFADNet(MIFADConfig(**config.network)) if base is BASE else None


def test_what_the_arms_are():
    kernels = {arm: c.network["kernel_sizes"] for arm, c in arms("branches", BASE)[1].items()}
    assert kernels == {"2": (3, 5), "3": (7, 5, 3), "4": (3, 5, 7, 9)}
    assert list(arms("loss", BASE)[1]) == ["softmax", "center", "island", "angular"]
    assert list(arms("attention", BASE)[1]) == ["none", "channel", "spatial", "both"]
    assert list(arms("fusion", BASE)[1]) == ["concat", "add", "mul"]
    assert list(arms("margin", BASE)[1]) == ["0", "0.1", "0.2", "0.3", "0.5"]
    assert arms("margin", replace(BASE, margin=0.15))[0] == "0.15"
    with pytest.raises(ValueError, match="all or one of loss, branches"):
        arms("mood", BASE)


def test_tables_of_the_angular_loss_need_it():
    """With softmax the margin, the scale and the ramp are not used: the arms would be the same run several times."""
    base = replace(BASE, loss="softmax", network={**BASE.network, "head": "linear"})
    for table in ("loss", "margin", "scale"):
        with pytest.raises(ValueError, match=f"the table {table} is about the angular loss, and the base has softmax"):
            arms(table, base)
    assert "no margin ramp" not in arms("recipe", base)[1]
    assert "no margin ramp" in arms("recipe", BASE)[1]


def test_a_column_keeps_its_widths():
    """In `lite` the columns have widths of their own; a column of 9 takes those of its neighbour 7."""
    seven, five, three = PRESETS["lite"].widths
    named = arms("branches", LITE)[1]
    assert named["2"].network["widths"] == (three, five)
    assert named["4"].network["widths"] == (three, five, seven, seven)


@pytest.mark.parametrize(("preset", "most"), [("tiny", 0.04), ("lite", 0.015)])
def test_matched_arms_have_the_parameters_of_the_reference(preset, most):
    base = replace(LITE, network=PRESETS[preset].to_dict())
    target = sum(p.numel() for p in MIFADNet(PRESETS[preset]).parameters())
    assert parameters(base) == target
    _, named = arms("matched", base)
    assert {len(c.network["kernel_sizes"]) for c in named.values()} == {2, 3, 4}
    for config in named.values():
        assert abs(sum(p.numel() for p in MIFADNet(MIFADConfig(**config.network)).parameters()) / target - 1) < most


def test_rivals_have_no_attention_and_their_parameters_match(data, tmp_path):
    config = arms("rivals", profile("ablation"))[1]["ResNet-18"]
    ours, theirs = parameters(profile("ablation")), parameters(config)
    assert abs(ours - theirs) / ours < 0.1
    record = ablate.ablate(data, replace(BASE, epochs=1), ["rivals"], 1, tmp_path, str)
    found = {arm: record["runs"][name] for arm, name in record["tables"]["rivals"]["arms"].items()}
    assert [r["alpha"] == [None] for r in found.values()] == [False, True, True]
    assert found["ResNet-18"]["changes"]["arch"] == "resnet18"
    assert found["columns alone"]["parameters"] < found["MIFAD-Net"]["parameters"]


def test_the_name_follows_from_configuration_and_data():
    names = {run_name(c, "a") for table in TABLES for c in arms(table, BASE)[1].values()}
    assert len(names) == sum(len(arms(table, BASE)[1]) - 1 for table in TABLES) + 1  # the base is shared by all
    assert run_name(BASE, "a") == run_name(replace(BASE, seed=7), "a") != run_name(BASE, "b")
    assert run_name(replace(BASE, epochs=3), "a") != run_name(BASE, "a")
    assert run_name(BASE, "a").startswith("angular_7-5-3_both_concat_m0.1_s16_")


# --- the runs --------------------------------------------------------------------------------------------------------


def test_shared_arms_run_once_and_each_run_has_a_file(grid, data):
    folder, record, lines = grid
    assert lines[0] == "6 arms, 2 seeds each, 2 epochs on drawn faces"
    assert len(list(folder.iterdir())) == 12 == len(lines) - 1
    both, concat = record["tables"]["attention"]["arms"]["both"], record["tables"]["fusion"]["arms"]["concat"]
    assert both == concat
    for name in record["runs"]:
        for seed in (0, 1):
            run = read_record(folder / f"{name}_seed{seed}.json")
            assert run["seed"] == run["config"]["seed"] == seed
            assert len(run["predicted"]["public"]), len(run["predicted"]["private"]) == (14, 21)
            assert len(run["public_by_epoch"]) == 2
            assert run["best_epoch"] == 1 + int(np.argmax(run["public_by_epoch"]))


def test_a_run_is_that_of_fit(grid, data):
    folder, record, _ = grid
    net, trained = fit(data, replace(BASE, seed=1))
    name = record["tables"]["fusion"]["arms"]["concat"]
    run = read_record(folder / f"{name}_seed1.json")
    answers = predict_logits(net, data.private.images).argmax(1)
    assert run["predicted"]["private"] == "".join(str(a) for a in answers.tolist())
    assert run["best_epoch"] == trained["best_epoch"]
    assert run["alpha"] == [pytest.approx(f.attention.channel.alpha.item(), abs=1e-5) for f in net.fusions]
    assert any(run["beta"])
    none = read_record(folder / f"{record['tables']['attention']['arms']['none']}_seed1.json")
    assert none["alpha"] is none["beta"] is None


def test_a_finished_grid_is_read_not_run(grid, data, monkeypatch):
    folder, record, _ = grid
    monkeypatch.setattr(ablate, "fit", None)
    again = ablate.ablate(data, BASE, ["attention", "fusion"], 2, folder, str)
    assert {k: v for k, v in again.items() if k != "date"} == {k: v for k, v in record.items() if k != "date"}
    part = ablate.ablate(data, BASE, ["fusion"], 1, folder, str)
    assert list(part["tables"]) == ["fusion"]
    assert part["seeds"] == [0]


def test_a_cut_grid_goes_on(grid, data, tmp_path, monkeypatch):
    """Stopped in the middle of the second run, after one epoch: the result is that of the grid that was not cut."""
    folder, record, _ = grid
    starts = []

    def cut(data, config, folder, **options):
        starts.append(config)
        if len(starts) == 2:
            fit(data, config, folder, log=stop, **options)
        return fit(data, config, folder, **options)

    def stop(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        ablate.ablate(data, BASE, ["fusion"], 2, tmp_path, str)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".unfinished"]
    monkeypatch.setattr(ablate, "fit", fit)
    whole = ablate.ablate(data, BASE, ["fusion"], 2, tmp_path, str)
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.iterdir())) == 6
    for name, summary in whole["runs"].items():
        for key in ("accuracy", "private_hits", "best_epoch", "alpha"):
            assert summary[key] == record["runs"][name][key]


def test_two_workers_do_what_one_does(grid, data, tmp_path):
    _, record, _ = grid
    lines = []
    apart = ablate.ablate(data, BASE, ["fusion"], 2, tmp_path, lines.append, workers=2)
    assert lines[1:] == [f"{n} of 6 runs" for n in range(1, 7)]
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.iterdir())) == 6
    for name, summary in apart["runs"].items():
        alone = record["runs"][name]
        for key in ("parameters", "changes"):
            assert summary[key] == alone[key]
        for ours, theirs in zip(summary["alpha"], alone["alpha"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)  # sums may be split in another way among threads
        stems = [read_record(tmp_path / f"{name}_seed{seed}.json")["seed"] for seed in (0, 1)]
        assert stems == [0, 1]


@pytest.mark.parametrize("damage", ["[]", "{}", '{"predicted"', "short", "foreign"])
def test_a_damaged_file_of_a_run_is_named(grid, data, tmp_path, damage):
    """What is kept is not read blindly: a file without the keys ended in a KeyError."""
    shutil.copytree(grid[0], tmp_path, dirs_exist_ok=True)
    victim = sorted(tmp_path.glob("*_seed1.json"))[0]
    kept = read_record(victim)
    kept["predicted"]["private"] = kept["predicted"]["private"][1:] if damage == "short" else "x" * len(data.private)
    victim.write_text(json.dumps(kept) if damage in ("short", "foreign") else damage)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not a (finished run on these data|JSON record)") as caught:
        ablate.ablate(data, BASE, list(grid[1]["tables"]), 2, tmp_path, str)
    assert str(victim) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kept_run_of_another_configuration_is_named(grid, data, tmp_path):
    """A file that was copied to another run's name was taken for that run."""
    shutil.copytree(grid[0], tmp_path, dirs_exist_ok=True)
    first, second = sorted(tmp_path.glob("*_seed1.json"))[:2]
    for source in (first, second.with_name(second.name.replace("_seed1", "_seed0"))):
        shutil.copy(source, second)
        with pytest.raises(ValueError, match="another configuration; remove it, and the run is made again") as caught:
            ablate.ablate(data, BASE, list(grid[1]["tables"]), 2, tmp_path, str)
        assert str(second) in str(caught.value)


def test_a_worker_s_failure_is_told(data, tmp_path):
    with pytest.raises(TrainingStopped):
        ablate.ablate(data, replace(BASE, lr=1e30, epochs=8), ["fusion"], 1, tmp_path, str, workers=2)
    with pytest.raises(ValueError, match="workers = 0"):
        ablate.ablate(data, BASE, ["fusion"], 1, tmp_path, str, workers=0)


def test_a_run_that_blows_up_leaves_the_others(data, tmp_path):
    with pytest.raises(TrainingStopped):
        ablate.ablate(data, replace(BASE, lr=1e30, epochs=8), ["fusion"], 1, tmp_path, str)
    with pytest.raises(ValueError, match="seeds = 0"):
        ablate.ablate(data, BASE, ["fusion"], 0, tmp_path, str)


# --- the record ------------------------------------------------------------------------------------------------------


def test_the_record_follows_from_the_runs(grid, data):
    folder, record, _ = grid
    hits = {}
    for name, summary in record["runs"].items():
        runs = [read_record(folder / f"{name}_seed{seed}.json") for seed in (0, 1)]
        digits = np.array([[int(d) for d in run["predicted"]["private"]] for run in runs])
        hits[name] = digits == data.private.labels.numpy()
        accuracy = summary["accuracy"]
        assert accuracy["private"] == [sum(h) / 21 for h in hits[name].tolist()]
        assert accuracy["private_twin_free"] == [sum(h) / 15 for h in hits[name][:, 6:].tolist()]
        assert summary["mean"]["private"] == pytest.approx(sum(accuracy["private"]) / 2)
        public = np.array([[int(d) for d in run["predicted"]["public"]] for run in runs])
        assert accuracy["public"] == pytest.approx((public == data.public.labels.numpy()).mean(1).tolist())
        assert accuracy["public"] == pytest.approx([max(run["public_by_epoch"]) for run in runs], abs=1e-6)
        assert summary["public_by_epoch"] == [run["public_by_epoch"] for run in runs]
        assert [len(epochs) for epochs in summary["public_by_epoch"]] == [record["epochs"]] * 2
        answers = [np.bincount(row, minlength=7).tolist() for row in digits]
        assert summary["private_answers"] == answers
        assert sum(answers[0]) == 21
    for table, content in record["tables"].items():
        reference = hits[content["arms"][content["reference"]]]
        assert set(content["minus_reference"]) == set(content["arms"]) - {content["reference"]}
        for arm, name in content["arms"].items():
            assert (ablate.arm_hits(record, table, arm) == hits[name]).all()
            if test := content["minus_reference"].get(arm):
                d = hits[name].mean(0) - reference.mean(0)
                error = (d.var() / 21 + 2 * record["luck"] ** 2 / 2) ** 0.5
                assert test["p"] == pytest.approx(2 * norm.sf(abs(d.mean()) / error))
                low, high = test["interval_95"]
                assert (low, high) == pytest.approx(norm.interval(0.95, d.mean(), error))
                assert test == {
                    **{key: test[key] for key in ("difference", "interval_95", "p")},
                    "images": paired_bootstrap(hits[name], reference),
                    "by_seed": (hits[name].mean(1) - reference.mean(1)).tolist(),
                    "mcnemar": [mcnemar_test(a, b) for a, b in zip(hits[name], reference, strict=True)],
                }
    first, second = np.array([s["accuracy"]["private"] for s in record["runs"].values()]).T
    assert record["luck"] == pytest.approx(np.std(first - second, ddof=1) / 2**0.5)  # with two seeds
    assert record["runs"][record["tables"]["fusion"]["arms"]["add"]]["changes"] == {"network": {"fusion": "add"}}
    assert record["base"] == {**BASE.to_dict(), "seed": None}
    assert record["sizes"] == {"train": 32, "public": 14, "private": 21}
    json.dumps(record, allow_nan=False)


def test_claims_of_the_record(grid):
    _, record, _ = grid
    assert [(c["table"], c["better"], c["worse"]) for c in record["claims"]] == [
        claim for claim in CLAIMS if claim[0] in ("attention", "fusion")
    ]
    assert [c["p_holm"] for c in record["claims"]] == holm([c["p"] for c in record["claims"]])
    for c in record["claims"]:
        assert c["verdict"] == verdict(c, c["p_holm"]) in VERDICTS
    text = ablate.format_record(record)
    assert text.count("points (95 %") == 5
    assert "fusion: concat beats add: " in text


def test_one_seed_decides_nothing():
    """Its luck is 0, since it is not measured; with the faces alone all of these gaps would be sure."""
    right = {"concat": 990, "add": 800, "mul": 500}

    def hits(table, arm, seeds=1):
        return np.tile(np.arange(1000) < right[arm], (seeds, 1))

    (first, second) = ablate.judge(hits, ["fusion"], 0.0)
    assert max(first["p_holm"], second["p_holm"]) < 1e-6
    assert first["verdict"] == second["verdict"] == "cannot be decided"
    (first, second) = ablate.judge(lambda table, arm: hits(table, arm, 2), ["fusion"], 0.0)
    assert first["verdict"] == second["verdict"] == "holds"


def test_every_claim_is_about_arms_that_exist():
    for table, better, worse in CLAIMS:
        assert {better, worse} <= arms(table, BASE)[1].keys()
    assert NO_GAIN in CLAIMS


@pytest.mark.parametrize(
    ("difference", "p", "high", "plain", "no_gain"),
    [
        (0.02, 0.01, 0.03, 0, 1),
        (-0.02, 0.01, -0.001, 1, 0),
        (0.02, 0.06, 0.03, 2, 2),
        (-0.02, 0.06, 0.02, 2, 2),
        (0.002, 0.5, 0.009, 2, 0),  # a gain of a point is out of the interval
        (0.005, 0.01, 0.009, 0, 1),
    ],
)
def test_verdict(difference, p, high, plain, no_gain):
    test = {"difference": difference, "interval_95": [-1, high]}
    assert verdict(test, p) == VERDICTS[plain]
    assert verdict(test, p, no_gain=True) == VERDICTS[no_gain]


def test_luck_and_images_both_count():
    """Arms that are equally good: with both sources of error, about 5 in 100 experiments find a difference."""
    rng = np.random.default_rng(0)
    alone, both, spreads = [], [], []
    for _ in range(300):
        hard = rng.standard_normal(400)  # the same images for all; each run has a level of its own
        level = 0.7 + 0.3 * rng.standard_normal((3, 1))  # of a seed, for all arms
        runs = [hard + rng.standard_normal((3, 400)) / 3 < level + 0.2 * rng.standard_normal((3, 1)) for _ in range(8)]
        spread = ablate.luck(np.stack([r.mean(1) for r in runs]))
        spreads.append(spread)
        test = ablate.compare(runs[0], runs[1], spread)
        alone.append(paired_bootstrap(runs[0], runs[1], samples=300)["p"] < 0.05)
        both.append(test["p"] < 0.05)
    assert np.mean(alone) > 0.3  # images alone see what is not there
    assert 0.01 < np.mean(both) < 0.08
    same = ablate.compare(runs[0], runs[0], 0.0)
    assert (same["interval_95"], same["p"]) == ([0.0, 0.0], 1.0)
    assert ablate.luck(np.array([[0.5], [0.9]])) == ablate.luck(np.array([[0.5, 0.9]])) == 0.0
    assert ablate.luck(np.array([[0.5, 0.7], [0.1, 0.3]])) == pytest.approx(0)
    assert ablate.luck(np.array([[0.5, 0.7], [0.1, 0.1]])) == pytest.approx(0.1)


def test_hits_are_packed_as_bits():
    hits = np.random.default_rng(0).random(3589) < 0.7
    text = ablate.pack_hits(hits)
    assert len(text) < 3589 / 5.9
    assert (ablate.unpack_hits(text, 3589) == hits).all()


# --- the command -----------------------------------------------------------------------------------------------------


def test_command(capsys, tmp_path):
    options = ["--data", "drawn:28,public=14,private=21,inter=0.1", "--table", "fusion", "--epochs", "1"]
    options += ["--batch", "14", "--seeds", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "a.json")]
    assert cli.main(["ablate", *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "3 arms, 1 seeds each, 1 epochs on drawn faces"
    assert out[4] == "one seed: the luck of a run was not measured"
    assert out[5].startswith("fusion (minus concat)")
    record = read_record(tmp_path / "a.json")
    assert record["kind"] == "ablation"
    assert (record["profile"], record["preset"], record["drawn"]) == ("smoke", None, options[1])
    assert record["sizes"] == {"train": 28, "public": 14, "private": 21}
    assert (record["base"]["epochs"], record["base"]["batch"]) == (1, 14)
    two = ["--table", "branches", "fusion", "--no-bf16", "--out", str(tmp_path / "b.json")]
    assert cli.main(["ablate", *options, *two]) == 0
    both = read_record(tmp_path / "b.json")
    assert list(both["tables"]) == ["branches", "fusion"]
    assert both["runs"].items() >= record["runs"].items()  # float32 is what `smoke` has: these were not repeated
    assert both["base"]["bf16"] is False
    assert cli.main(["ablate", *options, "--seeds", "0"]) == 1
    assert "seeds = 0 must be at least 1" in capsys.readouterr().err


def test_data_spelling(capsys):
    faces = cli.get_data("drawn:14,private=21,intra=0,inter=0.25")
    same = synthetic_data(14, private=21, intra=0.0, inter=0.25)
    assert faces.sha256 == same.sha256
    for source in ("drawn:14,", "drawn:14,private=0", "drawn:14,seed=3", "drawn:private=7", "drawn:14;private=7"):
        assert cli.main(["data", "--data", source]) == 1
        assert "as in drawn:2000,private=4000,inter=0.6" in capsys.readouterr().err
