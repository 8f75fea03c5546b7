"""The benchmark measures what it says: same network, same faces, finite rates. Its speed is not asserted."""

import json
import math

import pytest
import torch

from mifad_lite import bench, fusion
from mifad_lite.baseline import ResNetConfig
from mifad_lite.bench import (
    EXACT,
    NaiveFaces,
    PeakBytes,
    attention_inputs,
    bench_attention,
    bench_gates,
    bench_graphs,
    bench_scaling,
    fastest,
    forward_gflop,
    gflop,
    matmul_peak,
    naive_epoch,
    plain_attention,
    scale_attention,
    training_step,
)
from mifad_lite.checkpoint import build, save_network
from mifad_lite.model import PRESETS, MIFADConfig
from mifad_lite.synthetic import synthetic_faces
from mifad_lite.train import TrainConfig


def test_naive_faces_keep_label_range_and_shape():
    faces = synthetic_faces(14, seed=0)
    naive = NaiveFaces(faces)
    for i in range(len(naive)):
        x, y = naive[i]
        assert x.shape == (1, 48, 48)
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
        assert y == faces.labels[i]


def test_naive_epoch_trains_the_same_network():
    config = TrainConfig(network=PRESETS["tiny"].to_dict(), batch=8)
    assert 0 < naive_epoch(synthetic_faces(16, seed=0), config) < math.inf


def test_fastest_takes_the_smallest_of_the_repeats():
    calls = []
    assert fastest(lambda: calls.append(1), 4) >= 0
    assert len(calls) == 5, "one to warm up, four measured"


def test_attention_is_measured_three_ways():
    rows = bench_attention("cpu", batch=2, channels=4, side=4)
    assert len({row["name"] for row in rows}) == 3
    assert all(0 < row["milliseconds"] < math.inf for row in rows)


# --- against size ----------------------------------------------------------------------------------------------------

MINI = MIFADConfig(kernel_sizes=(3,), widths=(4, 4, 8, 8, 8, 8), channels=8, embedding=8)


@pytest.fixture(scope="module")
def scaling():
    lines = []
    record = bench_scaling(
        1, MINI, batches=(2, 4), factors=(0.5, 1), sides=(24, 48), batch=2, places=(3, 6), sizes=(64,), log=lines.append
    )
    return record, lines


def test_scaling_record(scaling):
    record, lines = scaling
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert [row["batch"] for row in record["batch"]] == [2, 4]
    assert [row["factor"] for row in record["width"]["rows"]] == [0.5, 1]
    assert [row["side"] for row in record["resolution"]["rows"]] == [24, 48]
    rows = record["batch"] + record["width"]["rows"] + record["resolution"]["rows"]
    assert all(0 < row[key] < math.inf for row in rows for key in ("images_per_second", "forward_gflop"))
    assert all(0 < peak["gflop_per_second"] < math.inf for peak in record["peak"].values())
    assert record["images_per_second"] == max(row["images_per_second"] for row in record["batch"])
    assert record["images_per_second_at_peak"] == pytest.approx(
        record["peak"]["bfloat16"]["gflop_per_second"] / record["step_gflop"], rel=0.2
    )
    assert record["forward_gflop"].keys() == {"lite", "base", "wide", "ResNet-18, width 64", "ResNet-18, width 16"}
    assert any("images/s" in line for line in lines)


def test_operations_follow_the_sizes(scaling):
    """They do not depend on the batch; half the width makes at most half, and a quarter of the pixels about that."""
    record, _ = scaling
    assert len({row["forward_gflop"] for row in record["batch"]}) == 1
    half, whole = (row["forward_gflop"] for row in record["width"]["rows"])
    assert 0.2 * whole < half < 0.5 * whole
    small, large = (row["forward_gflop"] for row in record["resolution"]["rows"])
    assert 0.15 * large < small < 0.3 * large
    assert 2 * whole < record["step_gflop"] < 4 * whole, "a step walks forwards and twice back"


def test_gflop_counts_two_for_a_multiply_add():
    a, b = torch.rand(30, 40), torch.rand(40, 50)
    assert gflop(lambda: a @ b) == 2 * 30 * 40 * 50 / 1e9
    image, kernel = torch.rand(1, 3, 8, 8), torch.rand(5, 3, 3, 3)
    convolved = gflop(lambda: torch.nn.functional.conv2d(image, kernel, padding=1))
    assert convolved == 2 * 8 * 8 * 5 * 3 * 9 / 1e9
    assert forward_gflop("mifad", MINI.to_dict()) > 4 * 4 * 9 * 2 * 48 * 48 / 1e9, "more than its second layer"


def test_training_step_moves_the_weights(monkeypatch):
    seen = []

    def optimizer(config, net, objective):
        seen.append(net)
        return torch.optim.SGD(net.parameters(), 0.1)

    monkeypatch.setattr("mifad_lite.bench.make_optimizer", optimizer)
    step = training_step(TrainConfig(network=MINI.to_dict()), 4, 32, "cpu")
    (net,) = seen
    before = net.embed.weight.clone()
    step()
    assert not torch.equal(net.embed.weight, before)
    assert all(p.isfinite().all() for p in net.parameters())


def test_matmul_peak_keeps_the_fastest_size():
    peak = matmul_peak(torch.float32, (16, 128), "cpu", 2)
    assert peak["n"] in (16, 128)
    assert 0 < peak["gflop_per_second"] < math.inf


def test_peak_bytes_sees_what_lives_at_once():
    """Ten tensors of 4,000 bytes one after the other, then ten that are kept; a view weighs nothing."""
    given = torch.zeros(1000)
    with PeakBytes(given) as memory:
        for _ in range(10):
            torch.ones(1000)
    assert memory.peak == 8000
    with PeakBytes(given) as memory:
        kept = [torch.ones(1000) for _ in range(10)]
        views = [t[:10] for t in kept]
    assert memory.peak == 44_000
    assert len(views) == 10
    x = torch.ones(1000, requires_grad=True)
    with PeakBytes(x) as memory:
        torch.autograd.grad(x.exp().exp().sum(), x)
    assert 16_000 <= memory.peak < 16_100, "x, both results, and the first gradient"


def test_every_route_is_measured_on_the_same_inputs():
    found = scale_attention("cpu", 1, sides=(4, 8), batch=2, channels=3, knots=8)
    assert found["routes"].keys() == {*EXACT, found["table"]}
    for rows in found["routes"].values():
        assert [row["side"] for row in rows] == [4, 8]
        assert all(0 < row[key] < math.inf for row in rows for key in ("milliseconds", "mib"))
    for row in found["errors"]:
        assert 0 < row["error"] <= row["bound"]
        assert 0 < row["bfloat16"] < 0.05


def test_only_the_plain_route_and_the_fused_one_may_grow_with_the_square():
    """Twice the side, four times the places: the memory of the table grows by four, that of the matrix by more."""
    found = scale_attention("cpu", 1, sides=(16, 32), batch=1, channels=4, knots=4)
    growth = {name: rows[1]["mib"] / rows[0]["mib"] for name, rows in found["routes"].items()}
    assert growth[found["table"]] == pytest.approx(4, rel=0.1)
    assert growth["plain formula, HW x HW matrix"] > 12


def test_a_matrix_of_a_gigabyte_is_left_out(monkeypatch):
    monkeypatch.setattr("mifad_lite.bench.attention_inputs", lambda batch, *a: attention_inputs(1, *a))
    found = scale_attention("cpu", 1, sides=(5,), batch=10**7, channels=2, knots=4)
    assert found["routes"]["plain formula, HW x HW matrix"] == []
    assert len(found["routes"]["row blocks"]) == 1


def test_exact_routes_are_the_formula():
    v, values = (x.detach().float() for x in attention_inputs(2, 60, 4, "cpu"))
    for way in EXACT.values():
        torch.testing.assert_close(way(v, values), plain_attention(v, values), rtol=1e-4, atol=1e-5)


# --- graphs ----------------------------------------------------------------------------------------------------------

SMALL = {
    "mini": {"network": MINI.to_dict(), "bf16": False},
    "ResNet": {"arch": "resnet18", "network": ResNetConfig(2).to_dict(), "loss": "softmax", "bf16": False},
}


def test_graphs_are_measured_by_network_and_batch(monkeypatch):
    """By a clock of ours: 18 images make 4 batches of 4 or 2 of 8, and the fastest epoch after the first counts."""
    configs, saved, fit = [], [], bench.fit

    def timed(data, config, progress):
        configs.append(config)
        _, record = fit(data, config, progress=progress)
        assert len(data.train) == 18
        for epoch, seconds in zip(record["epochs"], (0.25, 2.0, 0.5), strict=True):
            epoch["seconds"] = seconds
        return None, record

    monkeypatch.setattr(bench, "fit", timed)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(bench, "fastest", lambda run, repeats: run() is None or 0.125)
    lines = []
    record = bench_graphs(
        (4, 8), 18, 3, SMALL, ("ResNet",), (1024,), lines.append, lambda r: saved.append(json.loads(json.dumps(r)))
    )
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert {"kind", "commit", "device", "data", "seed", "images", "peak", "step_gflop"} <= record.keys()
    assert (record["kind"], record["images"]) == ("graphs", 18)
    rows = record["training"]
    assert [(r["name"], r["batch"], r["compile"], r["graph"]) for r in rows] == [
        ("mini", 4, False, True),
        ("mini", 8, False, True),
        ("ResNet", 4, False, True),
        ("ResNet", 8, False, True),
        ("mini", 4, False, False),
        ("mini", 8, False, False),
        ("ResNet", 8, True, False),
        ("ResNet", 8, True, True),
    ]
    assert [(c.arch == "mifad", c.batch, c.compile, c.graph) for c in configs] == [
        (r["name"] == "mini", r["batch"], r["compile"], r["graph"]) for r in rows
    ]
    for row in rows:
        assert row["images_per_second"] == 32
        assert row["step_milliseconds"] == 1e3 * row["batch"] / 32
        assert row["first_epoch_seconds"] == 0.25
        share = 32 * record["step_gflop"][row["name"]] / record["peak"]["gflop_per_second"]
        assert row["share_of_peak"] == pytest.approx(share, abs=1e-4)
    assert [len(r["training"]) for r in saved] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert saved[2]["training"] == rows[:3]
    assert record["inference"] == [
        {
            "name": name,
            "images_per_second_64": 144,  # all 18 in an eighth of a second
            "images_per_second_1024": 144,
            "one_face_milliseconds": 125,
        }
        for name in SMALL
    ]
    assert len(lines) == 1 + len(rows) + len(SMALL)


def test_a_graphed_row_counts_the_operations_of_a_step():
    """Forwards once and backwards twice, whatever the batch."""
    record = bench_graphs((4,), 8, 2, {"mini": SMALL["mini"]}, (), (256,), lambda line: None)
    forward = forward_gflop("mifad", MINI.to_dict())
    assert 2 * forward < record["step_gflop"]["mini"] < 4 * forward
    for row in record["training"]:
        assert row["step_milliseconds"] == pytest.approx(4e3 / row["images_per_second"], rel=0.1)


def shut_gate(path, depth):
    """A checkpoint of a tiny network, one of whose gates has logits of -80 everywhere."""
    net = build("mifad", PRESETS["tiny"].to_dict())
    with torch.no_grad():
        net.fusions[depth].merge.weight.zero_()
        net.fusions[depth].merge.bias.fill_(-80)
    save_network(path, net)
    return str(path)


def test_gates_are_measured_cut_and_not(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(bench, "fastest", lambda run, repeats: limits.append(fusion.STEEPEST) or run() or 0.25)
    shut = shut_gate(tmp_path / "shut.safetensors", 1)
    lines = []
    record = bench_gates((shut,), batch=4, repeats=2, log=lines.append)
    assert limits == 4 * [math.inf, 40.0]
    assert [(row["name"], row["state"]) for row in record["rows"]] == [(shut, "untrained"), (shut, "trained")]
    fresh, trained = (row["subnormal"] for row in record["rows"])
    assert not any(fresh)
    assert trained[1] > 0.1
    assert trained[0] == trained[2] == 0
    assert all(row["milliseconds"] == {"uncut": 250, "cut": 250} for row in record["rows"])
    assert (record["batch"], record["repeats"], record["limit"]) == (4, 2, 40)
    assert len(lines) == 2
    json.dumps(record)


def test_gates_are_cut_again_whatever_happens(tmp_path, monkeypatch):
    shut = shut_gate(tmp_path / "shut.safetensors", 0)
    monkeypatch.setattr(bench, "fastest", lambda run, repeats: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench_gates((shut,), batch=4)
    assert fusion.STEEPEST == 40
