"""Training learns, repeats itself, resumes bit for bit after kill -9, refuses what it should and stops at a NaN."""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mifad_lite import (
    MIFADConfig,
    MIFADNet,
    ResNet18,
    ResNetConfig,
    TrainConfig,
    fit,
    load_network,
    profile,
    synthetic_data,
    train,
)
from mifad_lite.augment import Augmentation, augment
from mifad_lite.checkpoint import (
    CheckpointError,
    build,
    checksum,
    read_tensors,
    save_network,
    weights_of,
    write_tensors,
)
from mifad_lite.data import FaceData, FaceSet
from mifad_lite.graph import Replay
from mifad_lite.model import PRESETS
from mifad_lite.records import read_record
from mifad_lite.train import (
    LOSSES,
    PROFILES,
    Objective,
    TrainingStopped,
    ema_update,
    lr_factor,
    make_optimizer,
    uphill,
)

MINI = {**PRESETS["tiny"].to_dict(), "widths": (2, 2, 4, 4, 4, 4), "channels": 4, "embedding": 8, "dropout": 0.1}
LINEAR = {**MINI, "head": "linear"}
RESNET = {"arch": "resnet18", "network": ResNetConfig(4).to_dict(), "loss": "softmax"}
FILES = ["best.safetensors", "last.safetensors", "record.json"]


def quick(**changes):
    """Three epochs of three steps."""
    return TrainConfig(**{"network": MINI, "epochs": 3, "batch": 16, "lr": 1e-2, "ema": 0.5, "bf16": False} | changes)


@pytest.fixture(scope="module")
def data():
    return synthetic_data(50, 28, 7, intra=0.2, inter=0.1)  # 50 is no multiple of 16


def lasting(record):
    """A record without what differs from run to run."""
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record["epochs"]]
    return {k: v for k, v in record.items() if k not in ("seconds", "date")} | {"epochs": epochs}


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_same_run(folder, other):
    """All that two folders hold is the same, but for the times."""
    for name in FILES[:2]:
        assert_same_tensors(load_file(folder / name), load_file(other / name))
    assert load_network(folder / FILES[0])[1] == load_network(other / FILES[0])[1]
    assert lasting(read_record(folder / FILES[2])) == lasting(read_record(other / FILES[2]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Learning ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The tiny network after four short epochs on drawn faces, its record, data and folder."""
    data = synthetic_data(280, 105, 7, intra=0.2, inter=0.1)
    folder = tmp_path_factory.mktemp("lesson")
    return *fit(data, profile("smoke", epochs=4, batch=20), folder), data, folder


def test_it_learns(lesson):
    net, record, data, _ = lesson
    first, *_, last = record["epochs"]
    assert last["loss"] < first["loss"] / 3
    assert last["train_accuracy"] > 0.8
    assert record["best_public_accuracy"] > 0.6  # chance is 0.14, and 0.05 is one standard error


def test_the_network_returned_is_the_best_one_and_scores_what_the_record_says(lesson):
    net, record, data, folder = lesson
    assert not net.training
    with torch.no_grad():
        hits = net(data.public.images / 255).argmax(1) == data.public.labels
    assert record["best_public_accuracy"] == pytest.approx(hits.double().mean().item(), abs=1e-9)
    highest = max(epoch["public_accuracy"] for epoch in record["epochs"])
    assert record["best_public_accuracy"] == pytest.approx(highest, abs=1e-6)
    saved, meta = load_network(folder / "best.safetensors")
    assert_same_tensors(saved.state_dict(), net.state_dict())
    assert meta["epoch"] == record["best_epoch"]
    assert meta["public_accuracy"] == record["best_public_accuracy"]


def test_the_record_tells_the_run(lesson):
    _, record, data, folder = lesson
    assert read_record(folder / "record.json") == json.loads(json.dumps(record))
    assert record["kind"] == "train"
    assert record["config"] == profile("smoke", epochs=4, batch=20).to_dict()
    assert record["data"] == {"name": "drawn faces", "sha256": data.sha256}
    assert {"commit", "device", "versions", "date", "seed"} <= record.keys()
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3, 4]
    assert record["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in record["epochs"]))
    assert sorted(contents(folder)) == FILES


def test_the_rate_follows_the_schedule(lesson):
    for number, epoch in enumerate(lesson[1]["epochs"], 1):  # 14 steps an epoch; the last step's rate is logged
        assert epoch["lr"] == pytest.approx(8e-3 * lr_factor("one-cycle", (14 * number - 1) / 56, 0.2))


def test_a_seed_says_everything(data):
    torch.manual_seed(1)
    net, record = fit(data, quick())
    torch.manual_seed(2)
    again, second = fit(data, quick())
    assert lasting(record) == lasting(second)
    assert_same_tensors(net.state_dict(), again.state_dict())
    other, third = fit(data, quick(seed=1))
    assert record["epochs"][0]["loss"] != third["epochs"][0]["loss"]
    assert not torch.equal(net.embed.weight, other.embed.weight)


class Sealed(FaceData):
    def __getattribute__(self, name):
        assert name != "private", "the private test was touched"
        return super().__getattribute__(name)


def test_the_private_test_is_never_touched(data, tmp_path):
    sealed = Sealed(data.train, data.public, data.private, data.name, data.sha256)
    with pytest.raises(AssertionError, match="private"):
        _ = sealed.private
    fit(sealed, quick(epochs=1), tmp_path)
    fit(sealed, quick(epochs=1), tmp_path, resume=True)


def test_the_public_test_chooses_but_does_not_teach(data, tmp_path):
    wrong = FaceData(data.train, data.train.subset(slice(0, 9)), data.private, data.name, data.sha256)
    for folder, faces in ((tmp_path / "a", data), (tmp_path / "b", wrong)):
        fit(faces, quick(), folder)
    last = [load_file(tmp_path / name / "last.safetensors") for name in "ab"]
    assert_same_tensors(*last)
    scores = [[e["public_accuracy"] for e in read_record(tmp_path / f / "record.json")["epochs"]] for f in "ab"]
    assert scores[0] != scores[1]


def test_of_equal_epochs_the_first_is_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "accuracy", lambda logits, labels: 0.5)
    net, record = fit(data, quick(), tmp_path)
    saved, meta = load_network(tmp_path / "best.safetensors")
    assert record["best_epoch"] == meta["epoch"] == 1
    assert_same_tensors(net.state_dict(), saved.state_dict())


# --- What a step is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss, data, tmp_path):
    config = quick(loss=loss, network=MINI if loss == "angular" else LINEAR, augmentation=Augmentation.none(), epochs=6)
    _, record = fit(data, config, tmp_path)
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert losses[-1] < losses[0]
    objective = [name for name in load_file(tmp_path / "last.safetensors") if name.startswith("objective.")]
    assert objective == (["objective.aux.centers"] if loss in ("center", "island") else [])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_objective_is_the_formula(loss):
    torch.manual_seed(0)
    config = quick(loss=loss, network=MINI if loss == "angular" else LINEAR, margin=0.3, aux_weight=0.25)
    net = build("mifad", config.network)
    objective = Objective(config, 8, 7)
    x, y = torch.randn(5, 8), torch.tensor([0, 3, 3, 6, 1])
    value, scores = objective(net, x, y, ramp=0.5)

    e, w = x.double().numpy(), net.head.weight.detach().double().numpy()
    true = (np.arange(5), y.numpy())

    def unit(v):
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def cross_entropy(logits):
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[true])

    if loss == "angular":
        theta = np.arccos(unit(e) @ unit(w).T)
        theta[true] += 0.5 * 0.3
        wanted = cross_entropy(16 * np.cos(theta))
    else:
        wanted = cross_entropy(e @ w.T + net.head.bias.detach().double().numpy())
    if loss in ("center", "island"):
        centers = objective.aux.centers.detach().double().numpy()
        wanted += 0.25 * 0.5 * np.mean(((e - centers[y.numpy()]) ** 2).sum(1))
        cosines = unit(centers) @ unit(centers).T + 1
        wanted += 0.25 * 10 * (cosines.sum() - np.trace(cosines)) * (loss == "island")
    assert value.item() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(scores.argmax(1), net.classify(x).argmax(1))  # hits are counted without the margin


def test_resnet18_trains_through_the_same_loop(data, tmp_path):
    config = quick(**RESNET, epochs=4)
    net, record = fit(data, config, tmp_path)
    assert isinstance(net, ResNet18)
    assert record["epochs"][-1]["loss"] < record["epochs"][0]["loss"]
    assert isinstance(load_network(tmp_path / "best.safetensors")[0], ResNet18)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_what_decays(optimizer, head):
    loss = "center" if head == "linear" else "angular"
    config = quick(optimizer=optimizer, network={**MINI, "head": head}, loss=loss)
    net, objective = build("mifad", config.network), Objective(config, 8, 7)
    made = make_optimizer(config, net, objective)
    assert type(made).__name__.lower() == optimizer
    names = {id(p): name for module in (net, objective) for name, p in module.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in made.param_groups) == len(decay) == len(names)  # each of them once
    for name, value in decay.items():
        kernel = name.endswith("weight") and dict(net.named_parameters())[name].ndim in (2, 4)
        assert value == (0.05 if kernel and not (head == "cosine" and name == "head.weight") else 0), name
    for ending in ("alpha", "beta", "norm.weight", "embed.weight", "head.weight"):
        assert any(name.endswith(ending) for name in decay)
    assert ("aux.centers" in decay) == (head == "linear")


def test_what_decays_follows_the_head_that_is_there():
    """The columns alone have a linear head, whatever their configuration says of one."""
    config = quick(arch="columns", network={**MINI, "head": "cosine"}, loss="softmax")
    net = build(config.arch, config.network)
    decay, _ = make_optimizer(config, net, Objective(config, 8, 7)).param_groups
    assert any(p is net.head.weight for p in decay["params"])


@pytest.mark.parametrize("loss", ["angular", "softmax"])
def test_smoothed_and_mixed_targets_equal_one_cross_entropy_against_their_blend(loss):
    """In float64: the loss is linear in the target, but the margin goes to the label that a term is about."""
    torch.manual_seed(0)
    config = quick(loss=loss, network=MINI if loss == "angular" else LINEAR, margin=0.3, smoothing=0.2, mixup=0.4)
    net = build("mifad", config.network)
    x, y, others = torch.randn(5, 8), torch.tensor([0, 3, 3, 6, 1]), torch.tensor([1, 3, 0, 0, 5])
    share = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0])
    value, _ = Objective(config, 8, 7)(net, x, y, 1.0, (share, others))

    e, w = x.double().numpy(), net.head.weight.detach().double().numpy()
    cosines = (e @ w.T) / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    wanted = np.zeros(5)
    for labels, part in ((y.numpy(), share.double().numpy()), (others.numpy(), 1 - share.double().numpy())):
        target = np.full((5, 7), 0.2 / 7) + 0.8 * np.eye(7)[labels]
        if loss == "angular":
            logits = 16 * np.cos(np.arccos(cosines) + 0.3 * np.eye(7)[labels])
        else:
            logits = e @ w.T + net.head.bias.detach().double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        wanted -= part * (target * log_p).sum(1)
    assert value.item() == pytest.approx(wanted.mean(), rel=1e-5)


def watch_images(monkeypatch):
    """A list that gets [images] at each step of a training, as they reach the network."""
    seen, features = [], MIFADNet.features

    def watch(self, x, *args, **options):
        if self.training:
            seen.append([x.clone()])
        return features(self, x, *args, **options)

    monkeypatch.setattr(MIFADNet, "features", watch)
    return seen


def test_mixed_images_are_blends_of_two_of_the_batch(data, monkeypatch):
    """What reaches the network: x_i share + x_j (1 - share), with the labels of i and j and that share."""
    seen, forward = watch_images(monkeypatch), Objective.forward

    def watch(self, net, embedding, labels, ramp, mix, taught):
        seen[-1] += [labels, *mix]
        return forward(self, net, embedding, labels, ramp, mix, taught)

    monkeypatch.setattr(Objective, "forward", watch)
    fit(data, quick(mixup=0.5, epochs=2, augmentation=Augmentation.none()))
    originals, shares = data.train.images.double().flatten(1) / 255, []
    for x, labels, share, others in seen:
        for mixed, a, part, b in zip(x.double().flatten(1), labels, share, others, strict=True):
            first, second = originals[data.train.labels == a], originals[data.train.labels == b]
            blends = part * first[:, None] + (1 - part) * second[None]  # (n_a, n_b, 2304)
            assert (blends - mixed).abs().amax(-1).min() < 1e-5
            shares.append(part.item())
    assert len(seen) == 6
    assert np.std(shares) > 0.2  # Beta(0.5, 0.5): near 0 or 1 mostly


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"smoothing": 1.0}, "smoothing = 1.0 must be a number from 0 to 0.99"),
        ({"smoothing": -0.1}, "smoothing = -0.1 must be a number"),
        ({"mixup": -1.0}, "mixup = -1.0 must be a number from 0"),
        ({"mixup": math.nan}, "mixup = nan must be a number from 0"),
        ({"sam": -0.1}, "sam = -0.1 must be a number from 0"),
        ({"sam": math.inf}, "sam = inf must be a number from 0"),
        ({"mixup": 0.2, "loss": "island", "network": LINEAR}, "the island loss knows but one center"),
    ],
)
def test_smoothing_and_mixup_out_of_range(changes, says):
    with pytest.raises(ValueError, match=says):
        quick(**changes)


class Bowl(nn.Module):
    """1/2 w' A w, with a row of w that no loss reaches."""

    def __init__(self, a):
        super().__init__()
        self.w, self.idle = nn.Parameter(torch.tensor([3.0, -1.0, 0.5])), nn.Parameter(torch.ones(2))
        self.register_buffer("a", a)

    def forward(self):
        return self.w @ self.a @ self.w / 2


@pytest.mark.parametrize("radius", [0.0, 0.1, 2.0])
def test_the_gradient_is_taken_a_radius_up_the_slope(radius):
    """Of a bowl it is A (w + radius A w / |A w|), by NumPy in float64."""
    root = np.random.default_rng(2).standard_normal((3, 3))
    a = root @ root.T
    net = Bowl(torch.from_numpy(a).float())
    net().backward()
    w = net.w.detach().double().numpy()
    with uphill(net, radius):
        net.zero_grad()
        net().backward()
        assert torch.equal(net.idle, torch.ones(2))
    slope = a @ w
    np.testing.assert_allclose(net.w.grad.numpy(), a @ (w + radius * slope / np.linalg.norm(slope)), rtol=1e-5)
    assert net.w.tolist() == [3.0, -1.0, 0.5]
    assert net.idle.grad is None


def test_on_level_ground_nothing_moves():
    net = Bowl(torch.zeros(3, 3))
    net().backward()
    with uphill(net, 1.0):
        assert net.w.tolist() == [3.0, -1.0, 0.5]


def test_what_goes_wrong_up_the_slope_leaves_the_weights_as_they_were():
    net = Bowl(torch.eye(3))
    net().backward()
    with suppress(ZeroDivisionError), uphill(net, 1.0):
        assert net.w.tolist() != [3.0, -1.0, 0.5]
        raise ZeroDivisionError
    assert net.w.tolist() == [3.0, -1.0, 0.5]


def test_a_sharpness_aware_step_goes_down_the_slope_of_the_place_above(data):
    """The first step of SGD (Nesterov: 1.9 times the gradient), against gradients in float64 on a network of ours."""
    plain = {**MINI, "dropout": 0.0}
    batch = len(data.train)
    config = quick(network=plain, sam=0.5, optimizer="sgd", weight_decay=0.0, clip=math.inf, epochs=1, batch=batch)
    config = replace(config, ema=0.0, ramp=0.0, lr=0.01, augmentation=Augmentation.none())
    torch.manual_seed(5)
    start = build("mifad", plain)
    net, _ = fit(data, config, start=start)

    own = build("mifad", plain).double().train()
    own.load_state_dict(start.state_dict())
    weights = list(own.parameters())
    x, y = data.train.images.double() / 255, data.train.labels

    def gradients():
        loss, _ = Objective(config, 8, 7)(own, own.features(x), y, 1.0)
        return torch.autograd.grad(loss, weights)

    slope = gradients()
    length = math.sqrt(sum(g.square().sum().item() for g in slope))
    with torch.no_grad():
        for w, g in zip(weights, slope, strict=True):
            w += 0.5 * g / length
    above = gradients()
    cosine = sum((a * b).sum().item() for a, b in zip(slope, above, strict=True))
    assert cosine < 0.99 * length * math.sqrt(sum(g.square().sum().item() for g in above)), "the two should differ"
    rate = 0.01 * lr_factor("one-cycle", 0.0, config.warmup)
    for new, old, g in zip(net.parameters(), start.parameters(), above, strict=True):
        torch.testing.assert_close((old - new).double(), 1.9 * rate * g, rtol=1e-3, atol=1e-6)


def test_the_pass_up_the_slope_leaves_no_trace_in_running_statistics(data):
    """At rate 0 a run with it and a run without it end with the same network."""
    nets = [fit(data, quick(sam=sam, lr=0.0, network={**MINI, "dropout": 0.0}))[0] for sam in (0.0, 0.5)]
    assert_same_tensors(nets[0].state_dict(), nets[1].state_dict())


@pytest.mark.parametrize("warmup", [0.05, 0.2, 0.7])
def test_one_cycle_starts_low_peaks_at_warmup_and_ends_near_zero(warmup):
    t = np.linspace(0, 1, 10_001)
    rate = np.array([lr_factor("one-cycle", x, warmup) for x in t])
    assert rate[0] == pytest.approx(0.04)
    assert t[rate.argmax()] == pytest.approx(warmup, abs=1e-3)
    assert rate.max() == pytest.approx(1, abs=1e-4)
    assert rate[-1] == pytest.approx(1e-3)
    assert (np.diff(rate[t < warmup]) >= 0).all()
    assert (np.diff(rate[t >= warmup]) <= 0).all()


@given(st.sampled_from(["one-cycle", "cosine", "constant"]), st.floats(0, 1), st.floats(0.01, 0.99))
def test_the_rate_has_no_jumps(schedule, t, warmup):
    here, there = (lr_factor(schedule, x, warmup) for x in (t, min(1.0, t + 1e-5)))
    assert 0 < here <= 1
    assert abs(here - there) <= 1.01e-5 * math.pi / 2 * max(1 / warmup, 1 / (1 - warmup))  # the steepest half cosine


def test_constant_and_cosine():
    assert {lr_factor("constant", t) for t in (0, 0.1, 0.9, 1)} == {1}
    for t, wanted in ((0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 1e-3)):
        assert lr_factor("cosine", t) == pytest.approx(wanted)


def test_the_margin_rises_over_the_first_part_of_the_run(data, monkeypatch):
    ramps = []

    class Watched(Objective):
        def forward(self, net, embedding, labels, ramp, mix, taught):
            ramps.append(ramp)
            return super().forward(net, embedding, labels, ramp, mix, taught)

    monkeypatch.setattr(train, "Objective", Watched)
    fit(data, quick(ramp=0.5))
    assert ramps == pytest.approx([0, 2 / 9, 4 / 9, 6 / 9, 8 / 9, 1, 1, 1, 1])  # of 9 steps
    ramps.clear()
    fit(data, quick(ramp=0.0, epochs=1))
    assert ramps == [1, 1, 1]


def test_ema_is_the_formula():
    generator = np.random.default_rng(0)
    wanted, average = np.zeros(4), {"w": torch.zeros(4), "n": torch.tensor(0)}
    for step in range(20):
        weight = generator.standard_normal(4).astype(np.float32)
        ema_update(average, {"w": torch.from_numpy(weight), "n": torch.tensor(step)}, 0.9)
        wanted = 0.9 * wanted + (1 - 0.9) * weight.astype(np.float64)
    np.testing.assert_allclose(average["w"].numpy(), wanted, atol=1e-6)
    assert average["n"] == 19  # counters are copied


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.9995])
def test_a_decay_that_is_a_tensor_averages_like_a_number(decay):
    generator = np.random.default_rng(1)
    wanted, averages = np.zeros(6), [{"w": torch.zeros(6), "n": torch.tensor(0)} for _ in range(2)]
    for step in range(20):
        weight = generator.standard_normal(6).astype(np.float32)
        for average, keep in zip(averages, (decay, torch.tensor(decay)), strict=True):
            ema_update(average, {"w": torch.from_numpy(weight), "n": torch.tensor(step)}, keep)
        wanted = decay * wanted + (1 - decay) * weight.astype(np.float64)
    for average in averages:
        np.testing.assert_allclose(average["w"].numpy(), wanted, atol=1e-6)
        assert average["n"] == 19


def test_the_average_that_fit_keeps(data, tmp_path, monkeypatch):
    seen = []

    def spy(average, current, decay):
        seen.append({k: v.double().numpy().copy() for k, v in current.items()})
        ema_update(average, current, decay)

    monkeypatch.setattr(train, "ema_update", spy)
    config = quick()
    fit(data, config, tmp_path)
    torch.manual_seed(config.seed)
    wanted = {k: v.double().numpy() for k, v in build("mifad", MINI).state_dict().items()}
    for n, current in enumerate(seen, 1):
        decay = min(1 - 1 / (0.5 * 9), (1 + n) / (10 + n))  # 9 steps in all; shorter at first, so that it starts well
        wanted = {k: decay * wanted[k] + (1 - decay) * current[k] for k in wanted}
    last = load_file(tmp_path / "last.safetensors")
    for name in ("embed.weight", "head.weight", "norm.running_var", "columns.2.convs.5.bias"):
        np.testing.assert_allclose(last[f"average.{name}"].numpy(), wanted[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(last[f"average.{name}"], last[f"net.{name}"])
    assert len(seen) == 9


def test_without_ema_the_average_is_the_network(data, tmp_path):
    fit(data, quick(ema=0.0, epochs=1), tmp_path)
    last = load_file(tmp_path / "last.safetensors")
    for name in [n for n in last if n.startswith("net.")]:
        assert torch.equal(last[name], last[name.replace("net.", "average.", 1)])


def test_bf16_runs_on_the_cpu(data, tmp_path, monkeypatch):
    dtypes = []

    def watched(arch, network):
        net = build(arch, network)
        net.columns[0].convs[3].register_forward_hook(lambda module, inputs, y: dtypes.append((net.training, y.dtype)))
        return net

    monkeypatch.setattr(train, "build", watched)
    _, plain = fit(data, quick())
    assert {dtype for _, dtype in dtypes} == {torch.float32}
    dtypes.clear()
    _, record = fit(data, quick(bf16=True), tmp_path)
    assert {dtype for training, dtype in dtypes if training} == {torch.bfloat16}
    for a, b in zip(plain["epochs"], record["epochs"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.2)
    kept = load_file(tmp_path / "last.safetensors")
    assert {t.dtype for t in kept.values() if t.is_floating_point()} == {torch.float32}


def test_compile_is_passed_on(data, monkeypatch):
    """With a compiler that changes nothing: what inductor makes of it needs a C++ compiler and half a minute."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function) or function)
    _, plain = fit(data, quick(epochs=1))
    assert not compiled
    _, record = fit(data, quick(epochs=1, compile=True))
    assert [f.__func__ for f in compiled] == [MIFADNet.features]
    assert plain["epochs"][0]["loss"] == record["epochs"][0]["loss"]


def test_it_is_quiet_without_a_terminal(data, capfd):
    fit(data, quick(epochs=1))
    assert capfd.readouterr() == ("", "")


def test_progress_and_log(data, capfd):
    lines = []
    fit(data, quick(epochs=2), progress=True, log=lines.append)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 1/2" in err
    assert "0/3" in err  # later counts are shown only when they take long enough
    assert len(lines) == 2
    assert lines[1].startswith("epoch   2/2  loss ")
    assert "images/s" in lines[1]


# --- Configurations ---------------------------------------------------------------------------------------------------


def test_the_paper_profile_is_the_papers():
    paper = PROFILES["paper"]
    assert (paper.optimizer, paper.batch, paper.lr, paper.epochs) == ("adam", 16, 0.001, 300)
    assert {lr_factor(paper.schedule, t) for t in (0, 0.5, 1)} == {1}
    assert (paper.loss, paper.augmentation, paper.weight_decay) == ("angular", Augmentation.none(), 0)
    assert tuple(paper.network["kernel_sizes"]) == (7, 5, 3)


def test_profiles():
    assert set(PROFILES) == {"smoke", "cpu", "gpu", "long", "flagship", "ablation", "paper"}
    assert PROFILES["gpu"].graph
    assert (PROFILES["flagship"].graph, PROFILES["flagship"].network["head"]) == (True, "linear")
    assert profile("smoke", seed=7) == TrainConfig(**{**vars(PROFILES["smoke"]), "seed": 7})
    with pytest.raises(ValueError, match="profile 'huge' is unknown: use one of smoke, cpu, gpu, long, "):
        profile("huge")


@pytest.mark.parametrize("name", [*PROFILES])
def test_a_configuration_survives_json(name):
    config = PROFILES[name]
    again = TrainConfig(**json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.augmentation == config.augmentation


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "hinge"}, "loss 'hinge' is unknown: use one of angular, softmax, center, island"),
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown"),
        ({"schedule": "step"}, "schedule 'step' is unknown"),
        ({"epochs": 0}, "epochs = 0 must be a whole number from 1 to"),
        ({"batch": 1}, "batch = 1 must be a whole number from 2 to"),
        ({"network": LINEAR}, "the angular loss needs cosines: set the network's head to 'cosine'"),
        ({"arch": "columns"}, "the angular loss needs cosines, which arch 'columns' lacks: set loss to 'softmax'"),
        ({"arch": "resnet18", "network": {"width": 4, "head": "cosine"}}, "which arch 'resnet18' lacks"),
        ({"epochs": "3"}, "epochs = '3' must be a whole number"),
        ({"epochs": True}, "epochs = True must be a whole number"),
        ({"batch": 2.0}, "batch = 2.0 must be a whole number"),
        ({"seed": 10**30}, "seed = 1000000000000000000000000000000 must be a whole number"),
        ({"lr": math.nan}, "lr = nan must be a number"),
        ({"lr": None}, "lr = None must be a number"),
        ({"clip": 0.0}, "clip = 0.0 must be"),
        ({"loss": ["angular"]}, "is unknown: use one of angular"),
        ({"arch": "vgg"}, "arch 'vgg' is unknown: use one of mifad, resnet18, columns"),
        ({"bf16": 1}, "bf16 1 is unknown: use one of True, False"),
        ({"network": None}, "network is None, and must be a dict"),
        ({"augmentation": {"colour": 1}}, "augmentation has no setting 'colour'"),
        ({"augmentation": None}, "augmentation is None, and must be an Augmentation"),
        ({"augmentation": {"rotate": math.nan}}, "rotate = nan must be a number"),
    ],
)
def test_a_bad_configuration_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        quick(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": {**MINI, "colour": 1}}, "mifad has no setting 'colour'"),
        ({"network": {**MINI, "classes": 3}}, "classes = 3 is too few: the data has a label 6"),
        ({"network": {**MINI, "channels": 10**5}}, "parameters, 1,000,000,000 at most"),
        ({"augmentation": Augmentation(crop=3)}, "crop = 3 is too small"),
        ({"augmentation": Augmentation(crop=49)}, "crop = 49 is larger"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_written(changes, reason, data, tmp_path):
    with pytest.raises(ValueError, match=reason):
        fit(data, quick(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("train", "public"), [(1, 7), (7, 0)])
def test_too_few_faces_are_refused(train, public, data, tmp_path):
    few = FaceData(data.train.subset(slice(train)), data.public.subset(slice(public)), data.private, "few", "ab" * 32)
    with pytest.raises(ValueError, match=f"{train} faces to train on and {public} in the public test are too few"):
        fit(few, quick(), tmp_path / "run")


def test_a_network_that_leaves_its_defaults_unsaid_trains(data):
    network = {k: v for k, v in MINI.items() if k not in ("scale", "classes", "attention")}
    assert fit(data, quick(network=network, epochs=1))[1]["epochs"][0]["loss"] > 0


# --- Resuming ---------------------------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys
import torch
import mifad_lite.__main__ as cli
from mifad_lite import records, synthetic, train

where, threads, *argv = sys.argv[1:]
torch.set_num_threads(int(threads))
cli.synthetic_data = lambda: synthetic.synthetic_data(50, 28, 7, intra=0.2, inter=0.1)

def killed_at(number, function, counts=lambda *args: True):
    calls = []
    def wrapped(*args):
        calls.extend([None] * counts(*args))
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return wrapped

if where == "mid-epoch":  # three steps an epoch: in the second epoch
    train.augment = killed_at(5, train.augment)
if where == "between-files":  # best.safetensors is of the second epoch, last.safetensors of the first
    os.replace = killed_at(2, os.replace, lambda source, target: "last" in str(target))
sys.exit(cli.main(argv))
"""


def run_driver(root, where, folder, *more):
    """`python -m mifad_lite train` on a few faces, dead by its own hand at `where`: no time to clean up."""
    command = ["train", "--profile", "smoke", "--data", "drawn", "--epochs", "3", "--batch", "16", "--out", folder]
    return subprocess.run(
        [sys.executable, "-c", DRIVER, where, str(torch.get_num_threads()), *command, *more],
        cwd=root, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of the driver's run, uncut."""
    folder = tmp_path_factory.mktemp("whole")
    fit(data, profile("smoke", epochs=3, batch=16), folder, device="cpu")
    return folder


@pytest.mark.parametrize("where", ["mid-epoch", "between-files"])
def test_killed_in_the_middle_it_resumes_bit_for_bit(where, data, whole, root, tmp_path):
    killed = run_driver(root, where, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_record(tmp_path / "record.json")["epochs"]) == 1
    assert load_network(tmp_path / "best.safetensors")[1]["epoch"] == (1 if where == "mid-epoch" else 2)
    if where == "mid-epoch":
        resumed = run_driver(root, "never", tmp_path, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert resumed.stdout.startswith("epoch   2/3")
    else:
        fit(data, profile("smoke", epochs=3, batch=16), tmp_path, resume=True, device="cpu")
    assert_same_run(tmp_path, whole)


class Cut(Exception):
    pass


def cut_after(epochs):
    lines = []

    def log(line):
        lines.append(line)
        if len(lines) == epochs:
            raise Cut

    return log


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bf16": True, "ema": 0.0},
        {"optimizer": "sgd", "lr": 0.05},
        {"optimizer": "adam", "schedule": "cosine", "channels_last": False},
        {"loss": "center", "network": LINEAR, "aux_weight": 0.1},
        {"loss": "island", "network": LINEAR, "optimizer": "sgd"},
        {"smoothing": 0.1, "mixup": 0.2, "augmentation": Augmentation(crop=32)},
        {"sam": 0.2},
        RESNET,
    ],
    ids=",".join,
)
def test_it_resumes_bit_for_bit(changes, data, tmp_path):
    config = quick(**changes)
    net, record = fit(data, config, tmp_path / "whole")
    for epochs in (1, 1):  # cut twice
        with pytest.raises(Cut):
            fit(data, config, tmp_path / "cut", resume=True, log=cut_after(epochs))
    again, second = fit(data, config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert_same_tensors(net.state_dict(), again.state_dict())
    assert lasting(record) == lasting(second)


def test_resuming_a_finished_run_gives_it_back(data, tmp_path):
    net, record = fit(data, quick(), tmp_path)
    before = contents(tmp_path)
    again, second = fit(data, quick(), tmp_path, resume=True)
    assert contents(tmp_path) == before
    assert_same_tensors(net.state_dict(), again.state_dict())
    assert lasting(record) == lasting(second)


@pytest.fixture
def started(data, tmp_path):
    """The folder of a run that was cut after its first epoch."""
    with pytest.raises(Cut):
        fit(data, quick(), tmp_path / "run", log=cut_after(1))
    return tmp_path / "run"


def refusal(kind, folder, *args, **options):
    """The one sentence with which `fit` refuses, having touched nothing."""
    before = contents(folder)
    with pytest.raises(kind) as caught:
        fit(*args, folder, **options)
    assert contents(folder) == before
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_run_from_before_a_setting_was_there_goes_on(started, data, tmp_path):
    """It was off then, and off is its default. Switched on, it makes another run."""
    path = started / "last.safetensors"
    tensors, meta = read_tensors(path)
    assert meta["config"].pop("sam") == 0.0
    write_tensors(path, tensors, meta)
    assert "another sam;" in refusal(ValueError, started, data, quick(sam=0.1), resume=True)
    fit(data, quick(), started, resume=True)
    fit(data, quick(), tmp_path / "whole")
    assert_same_run(started, tmp_path / "whole")


def test_a_run_is_not_overwritten(started, data):
    assert "already holds a run: go on with --resume" in refusal(ValueError, started, data, quick())


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.02}, {"epochs": 5}, {"network": {**MINI, "dropout": 0.0}}, {"augmentation": Augmentation.none()}],
    ids=",".join,
)
def test_another_configuration_is_not_resumed(started, data, changes):
    text = refusal(ValueError, started, data, quick(**changes), resume=True)
    assert f"another {next(iter(changes))};" in text


def test_other_data_is_not_resumed(started):
    other = synthetic_data(50, 28, 7, intra=0.2, inter=0.1, seed=1)
    assert "other data" in refusal(ValueError, started, other, quick(), resume=True)


def test_a_damaged_state_is_not_resumed(started, data):
    for name in ("last.safetensors", "best.safetensors"):
        whole = (started / name).read_bytes()
        (started / name).write_bytes(whole[:-1])
        assert "not a readable" in refusal(CheckpointError, started, data, quick(), resume=True)
        (started / name).write_bytes(whole)
    (started / "last.safetensors").write_bytes((started / "best.safetensors").read_bytes())  # a network, but no state
    refusal(ValueError, started, data, quick(), resume=True)


def altered(path, change):
    """Write a file of a run again with other content, correctly signed."""
    tensors, meta = read_tensors(path)
    new = change(tensors, meta)
    write_tensors(path, *(new if isinstance(new, tuple) else (tensors, meta)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: (t, [1, 2]), "not the state"),
        (lambda t, m: m.update(config=["smoke"]), "another arch"),
        (lambda t, m: m.update(history=3), "history of epochs is damaged"),
        (lambda t, m: m.update(history=m["history"] * 2), "history of epochs is damaged"),
        (lambda t, m: m["history"][0].pop("loss"), "history of epochs is damaged"),
        (lambda t, m: m.update(best="good"), "history of epochs is damaged"),
        (lambda t, m: m.update(best=m["best"] + 0.1), "history of epochs is damaged"),
        (lambda t, m: t.pop("net.head.weight") is None, r"net\.head\.weight does not fit"),
        (lambda t, m: t.update({"net.head.weight": torch.ones(7, 9)}), r"net\.head\.weight does not fit"),
        (lambda t, m: t["average.norm.weight"].fill_(math.nan) is None, r"average\.norm\.weight does not fit"),
        (lambda t, m: t.update({"optimizer.x.y.z": torch.ones(1)}), r"optimizer\.x\.y\.z does not fit"),
        (lambda t, m: t.pop("optimizer.0.step") is None, "optimizer's state 0 is not whole"),
        (lambda t, m: t.update({"optimizer.0.exp_avg": torch.ones(3)}), r"optimizer\.0\.exp_avg does not fit"),
    ],
)
def test_an_altered_state_is_not_resumed(started, data, change, says):
    altered(started / "last.safetensors", change)
    with pytest.raises(ValueError, match=says):
        fit(data, quick(), started, resume=True)
    refusal(ValueError, started, data, quick(), resume=True)


def test_the_best_network_of_another_run_is_not_taken(started, data):
    """It was found out after the last epoch only, when training was done."""
    save_network(started / "best.safetensors", MIFADNet(replace(MIFADConfig(**MINI), embedding=9)))
    assert "not the best network of this run" in refusal(ValueError, started, data, quick(), resume=True)


def test_a_run_that_was_killed_before_its_record_gets_it(data, tmp_path):
    fit(data, quick(), tmp_path)
    whole = read_record(tmp_path / "record.json")
    for old in (None, "{}", json.dumps(whole | {"epochs": whole["epochs"][:2]})):
        (tmp_path / "record.json").unlink() if old is None else (tmp_path / "record.json").write_text(old)
        fit(data, quick(), tmp_path, resume=True)
        assert lasting(read_record(tmp_path / "record.json")) == lasting(whole)


def test_resuming_removes_what_a_killed_process_left(started, data):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (started / f".last.safetensors.{dead.pid}").write_bytes(b"half")
    (started / f".last.safetensors.{os.getppid()}").write_bytes(b"of a process that lives")
    (started / ".last.safetensors.old").write_bytes(b"not ours")
    (started / ".note").write_bytes(b"not ours")
    fit(data, quick(), started, resume=True)
    hidden = [name for name in contents(started) if name.startswith(".")]
    assert sorted(hidden) == sorted([".last.safetensors.old", f".last.safetensors.{os.getppid()}", ".note"])


def test_resuming_nothing_starts(data, tmp_path):
    _, record = fit(data, quick(epochs=1), tmp_path / "new", resume=True)
    assert len(record["epochs"]) == 1
    assert sorted(contents(tmp_path / "new")) == FILES


def test_a_file_in_the_folders_place_is_told_before_training(data, tmp_path, monkeypatch):
    (tmp_path / "run").write_text("a note")
    monkeypatch.setattr(train, "augment", lambda *args: pytest.fail("an epoch was trained in vain"))
    with pytest.raises((ValueError, OSError), match="run"):
        fit(data, quick(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a note"


# --- Steps as one CUDA graph ------------------------------------------------------------------------------------------


class Tape(TorchDispatchMode):
    """A CUDA graph's stand-in for the CPU: it notes each operation with the memory of its operands and results.

    A replay computes all of them again, into the same memory and without the Python around them, so that a number which
    was no tensor stays what it was. To read a number while it records is an error, as on a GPU.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number was read while a graph was recorded"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.operations:
            for kept, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(kept, Tensor) and kept.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    kept.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """Steps are recorded on the CPU, too, by tapes. The list of these."""
    made = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.append(Tape()) or made[-1])
    monkeypatch.setattr(torch.cuda, "graph", lambda tape: tape)
    monkeypatch.setattr(Replay, "works_on", staticmethod(lambda device: True))
    return made


def graphed(**changes):
    """Two epochs of three steps, so short that rounding has no time to grow, on images as they are."""
    return quick(**{"graph": True, "epochs": 2, "lr": 1e-4, "augmentation": Augmentation.none()} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "schedule": "cosine", "ema": 0.0, "epochs": 1},  # else steps of mere rounding
        {"optimizer": "sgd", "lr": 1e-3, "ramp": 0.0},
        {"loss": "softmax", "network": LINEAR, "smoothing": 0.1},
        {"loss": "center", "network": LINEAR, "aux_weight": 0.1},
        {"teach": 0.5},
        {"sam": 0.2},
        {"bf16": True},
        RESNET,
    ],
    ids=",".join,
)
def test_steps_replayed_from_a_graph_are_the_steps_of_the_loop(changes, data, tapes, tmp_path):
    """But for rounding: rates and ramps are float32 there. Dropout draws the same numbers."""
    config = graphed(**changes)
    teachers = [build("mifad", MINI)] if config.teach else []
    _, record = fit(data, config, tmp_path / "graph", teachers=teachers)
    assert len(tapes) == 1
    _, plain = fit(data, replace(config, graph=False), tmp_path / "loop", teachers=teachers)
    assert len(tapes) == 1
    for a, b in zip(record["epochs"], plain["epochs"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)  # of about 8: twenty steps of float32
        assert (a["train_accuracy"], a["lr"]) == (b["train_accuracy"], b["lr"])
    states = [load_file(tmp_path / name / "last.safetensors") for name in ("graph", "loop")]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        off = (tensor.double() - states[1][name].double()).abs()
        assert (off <= 5e-6 + 1e-4 * states[1][name].abs()).all(), name


def test_a_graph_follows_the_schedule(data, tapes):
    for number, epoch in enumerate(fit(data, graphed(epochs=3, lr=1e-2))[1]["epochs"], 1):  # the last step's rate
        assert epoch["lr"] == pytest.approx(1e-2 * lr_factor("one-cycle", (3 * number - 1) / 9, 0.2))


def test_each_replay_takes_its_own_row_of_the_buffers(tapes):
    """Two epochs with a step of ours that keeps a sum over steps, as weights do, against a plain loop in float64."""
    parameter = nn.Parameter(torch.zeros(2))
    module = nn.ParameterDict({"p": parameter})
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(0.0), fused=True)

    def update(x, y, mix, ramp, keep):
        shares, partners = mix
        parameter.grad = torch.stack([x.sum(), (shares * partners * y).sum()])
        optimizer.step()
        return torch.stack([ramp, keep, parameter.detach().sum()])

    replay = Replay(update, [module], optimizer, (4, 3, 5, 6), True, torch.contiguous_format, "cpu")
    rng, p = np.random.default_rng(0), np.zeros(2)
    for _ in range(2):
        x, shares, schedule = rng.random((12, 1, 5, 6)), rng.random((4, 3)), rng.random((4, 3))
        y, partners = rng.integers(0, 7, 12), rng.permuted(np.tile(np.arange(3), (4, 1)), axis=1)
        tensors = [torch.from_numpy(a).float() for a in (x, shares, schedule)]
        mix = tensors[1], torch.from_numpy(partners)
        results = replay.epoch(tensors[0], torch.from_numpy(y), mix, tensors[2])
        for step, (rate, ramp, keep) in enumerate(schedule):
            rows = slice(3 * step, 3 * step + 3)
            p = p - rate * np.array([x[rows].sum(), (shares[step] * partners[step] * y[rows]).sum()])
            np.testing.assert_allclose(results[step].numpy(), [ramp, keep, p.sum()], rtol=1e-5)
    np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("begun", [False, True])
def test_recording_leaves_no_trace(optimizer, begun, data, tapes, tmp_path, monkeypatch):
    """Its trial steps change weights, running statistics, the average and moments; all of it is undone."""
    seen = []

    class Watched(Replay):
        def __init__(self, update, modules, optimizer, *rest):
            def state():
                tensors = [t.clone() for module in modules for t in module.state_dict().values()]
                return tensors, [{k: v.clone() for k, v in own.items()} for own in optimizer.state.values()]

            def watched(*args):
                result = update(*args)
                seen.append(state())
                return result

            seen.append(state())
            super().__init__(watched, modules, optimizer, *rest)
            seen.append(state())

    config = graphed(optimizer=optimizer, lr=1e-2)
    if begun:
        with pytest.raises(Cut):
            fit(data, config, tmp_path, log=cut_after(1))
    monkeypatch.setattr(train, "Replay", Watched)
    monkeypatch.setattr(Replay, "epoch", lambda *args: (_ for _ in ()).throw(Cut))
    with pytest.raises(Cut):
        fit(data, config, tmp_path, resume=True)
    (before, moments), *trials, (after, moments_after) = seen
    assert len(trials) == 4
    for changed, _ in trials:
        assert not all(torch.equal(a, b) for a, b in zip(before, changed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(moments) == (len(moments_after) if begun else 0)
    assert len(moments_after) > 10
    for number, own in enumerate(moments_after):
        for key, value in own.items():
            assert torch.equal(value, moments[number][key] if begun else torch.zeros_like(value)), (number, key)


def test_a_graph_blends_with_the_shares_and_partners_it_is_given(data, tapes, monkeypatch):
    """At a rate of 0 the network stays as it began, so that each step's loss can be computed by hand."""
    seen, epoch = [], Replay.epoch

    def watched(self, x, y, mix, schedule):
        results = epoch(self, x, y, mix, schedule)
        seen.append((x, y, mix, results))
        return results

    monkeypatch.setattr(Replay, "epoch", watched)
    network = {**LINEAR, "dropout": 0.0}
    config = graphed(mixup=0.5, lr=0.0, loss="softmax", network=network, augmentation=Augmentation(crop=32))
    fit(data, config)
    torch.manual_seed(config.seed)
    net = build("mifad", network).double().train()
    for x, y, (shares, partners), results in seen:
        assert (partners.sort(1).values == torch.arange(16)).all()
        for step in range(3):
            rows, share, partner = slice(16 * step, 16 * step + 16), shares[step].double(), partners[step]
            first, labels = x[rows].double(), y[rows]
            wide = share[:, None, None, None]
            log_p = net(wide * first + (1 - wide) * first[partner]).log_softmax(1)
            each = [-log_p[torch.arange(16), label] for label in (labels, labels[partner])]
            loss = (share * each[0] + (1 - share) * each[1]).mean()
            hits = (log_p.argmax(1) == labels).double().mean()
            assert results[step, 0].item() == pytest.approx(loss.item(), rel=1e-4)
            assert results[step, 1].item() == pytest.approx(hits.item(), abs=1e-6)
    assert len(seen) == 2
    assert torch.cat([mix[0] for *_, mix, _ in seen]).std() > 0.2  # Beta(0.5, 0.5): near 0 or 1 mostly
    assert not torch.equal(seen[0][2][1], seen[1][2][1])


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "sgd"}, {"mixup": 0.2, "augmentation": Augmentation(crop=32)}],
    ids=",".join,
)
def test_a_graphed_run_resumes_bit_for_bit(changes, data, tapes, tmp_path):
    config = graphed(epochs=3, lr=1e-2, **changes)
    fit(data, config, tmp_path / "whole")
    with pytest.raises(Cut):
        fit(data, config, tmp_path / "cut", log=cut_after(1))
    fit(data, config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert len(tapes) == 3


def test_a_nan_in_a_graph_is_told_with_its_step_and_the_last_epoch_stays(data, tapes, tmp_path, monkeypatch):
    fit(data, graphed(), tmp_path / "whole")
    calls = []

    def broken(images, strength, generator):
        calls.append(1)
        x = augment(images, strength, generator)
        if len(calls) == 2:  # all images of an epoch at once
            x[20] = math.nan
        return x

    monkeypatch.setattr(train, "augment", broken)
    with pytest.raises(TrainingStopped, match=r"^epoch 2, step 2: loss nan, gradient norm nan; lower lr"):
        fit(data, graphed(), tmp_path / "run")
    assert len(read_record(tmp_path / "run" / "record.json")["epochs"]) == 1
    fit(data, graphed(), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_on_a_cpu_graph_changes_nothing(data, monkeypatch):
    assert Replay.works_on("cuda:1")
    assert not Replay.works_on("cpu")
    net, record = fit(data, quick(), device="cpu")
    monkeypatch.setattr(Replay, "__init__", lambda *args: pytest.fail("a graph was recorded"))
    again, second = fit(data, quick(graph=True), device="cpu")
    assert_same_tensors(net.state_dict(), again.state_dict())
    assert lasting(record)["epochs"] == lasting(second)["epochs"]


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_rate_that_is_a_tensor_steps_like_a_number(kind):
    config, weights = quick(optimizer=kind), []
    for graph in (False, True):
        torch.manual_seed(0)
        net = build("mifad", MINI)
        optimizer = make_optimizer(config, net, Objective(config, 8, 7), graph)
        assert {isinstance(group["lr"], Tensor) for group in optimizer.param_groups} == {graph}
        for rate in (1e-2, 3e-3, 2e-2):
            for group in optimizer.param_groups:
                if graph:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        weights.append(net.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-5, atol=1e-6)


# --- Teachers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["angular", "softmax"])
@pytest.mark.parametrize("teach", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_part_of_the_loss_follows_the_teachers(loss, teach, mixed):
    """Against cross-entropies in float64. The margin goes to a label, and the teachers name none."""
    torch.manual_seed(0)
    network = MINI if loss == "angular" else LINEAR
    net = build("mifad", network)
    x, y, others = torch.randn(5, 8), torch.tensor([0, 3, 3, 6, 1]), torch.tensor([1, 3, 0, 0, 5])
    share = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0]) if mixed else torch.ones(5)
    taught = (2 * torch.randn(5, 7)).softmax(1)
    objective = Objective(quick(loss=loss, network=network, margin=0.3, smoothing=0.2, teach=teach), 8, 7)
    value, scores = objective(net, x, y, 0.5, (share, others) if mixed else None, taught)

    e, w = x.double().numpy(), net.head.weight.detach().double().numpy()
    cosines = (e @ w.T) / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(w, axis=1)

    def cross_entropy(target, margins):
        if loss == "angular":
            logits = 16 * np.cos(np.arccos(cosines) + margins)
        else:
            logits = e @ w.T + net.head.bias.detach().double().numpy()
        return -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)

    hard = np.zeros(5)
    for labels, part in ((y.numpy(), share.double().numpy()), (others.numpy(), 1 - share.double().numpy())):
        one = np.eye(7)[labels]
        hard += part * cross_entropy(0.2 / 7 + 0.8 * one, 0.5 * 0.3 * one)
    wanted = (1 - teach) * hard + teach * cross_entropy(taught.double().numpy(), 0)
    assert value.item() == pytest.approx(wanted.mean(), rel=1e-5)
    assert torch.equal(scores.argmax(1), net.classify(x).argmax(1))


@pytest.fixture
def teachers():
    """Two networks whose running statistics a batch in training mode would change."""
    torch.manual_seed(5)
    nets = [build("mifad", network).train() for network in (MINI, LINEAR)]
    for net in nets:
        net(torch.rand(8, 1, 48, 48))
    return nets


def test_what_is_taught_is_the_mean_of_the_teachers_answers(data, teachers, monkeypatch):
    seen, forward = watch_images(monkeypatch), Objective.forward

    def watch(self, net, embedding, labels, ramp, mix, taught):
        seen[-1].append(taught)
        return forward(self, net, embedding, labels, ramp, mix, taught)

    monkeypatch.setattr(Objective, "forward", watch)
    fit(data, quick(teach=0.4, mixup=0.2, epochs=1), teachers=teachers)
    assert len(seen) == 3
    for x, taught in seen:
        with torch.no_grad():
            answers = [teacher.eval()(x).exp() for teacher in teachers]
        wanted = sum(a / a.sum(1, keepdim=True) for a in answers) / 2
        torch.testing.assert_close(taught, wanted, rtol=1e-5, atol=1e-6)
        assert not taught.requires_grad


def test_teachers_stay_as_they_are_and_the_record_names_them(data, teachers, tmp_path):
    before = [{k: v.clone() for k, v in teacher.state_dict().items()} for teacher in teachers]
    _, record = fit(data, quick(teach=0.5, epochs=1), tmp_path, teachers=teachers)
    for teacher, old in zip(teachers, before, strict=True):
        assert_same_tensors(teacher.state_dict(), old)
        assert all(p.grad is None for p in teacher.parameters())
    assert record["teachers"] == [checksum(old, "") for old in before]
    assert len(set(record["teachers"])) == 2
    assert read_record(tmp_path / "record.json")["teachers"] == record["teachers"]
    assert "teachers" not in fit(data, quick(epochs=1))[1]


def test_where_the_teachers_say_all_the_labels_say_nothing(data, teachers):
    shuffled = FaceSet(data.train.images, data.train.labels.flip(0))
    other = FaceData(shuffled, data.public, data.private, data.name, data.sha256)
    for teach in (1.0, 0.9):
        nets = [fit(faces, quick(teach=teach, epochs=1), teachers=teachers)[0] for faces in (data, other)]
        assert torch.equal(nets[0].embed.weight, nets[1].embed.weight) == (teach == 1)


def test_teach_and_teachers_come_together_or_not_at_all(data, teachers, tmp_path):
    for teach, given_teachers in ((0.5, []), (0.0, teachers)):
        says = rf"^teach = {teach:g} with {len(given_teachers)} teachers: set both \(--teach, --teacher\), or none$"
        with pytest.raises(ValueError, match=says):
            fit(data, quick(teach=teach), tmp_path / "run", teachers=given_teachers)
    for teach in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="teach = .* must be a number from 0 to 1"):
            quick(teach=teach)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(data, tmp_path):
    teacher = build("mifad", {**MINI, "classes": 3})
    with pytest.raises(ValueError, match="a teacher tells 3 classes apart, and this network 7"):
        fit(data, quick(teach=0.5), tmp_path / "run", teachers=[teacher])
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_other_teachers(data, teachers, tmp_path):
    config = quick(teach=0.5)
    with pytest.raises(Cut):
        fit(data, config, tmp_path, log=cut_after(1), teachers=teachers)
    assert "other teachers" in refusal(ValueError, tmp_path, data, config, resume=True, teachers=teachers[:1])
    fit(data, config, tmp_path, resume=True, teachers=teachers)


# --- Writing every few seconds ----------------------------------------------------------------------------------------

SCORES = (0.3, 0.5, 0.4, 0.2, 0.6, 0.7, 0.1, 0.1)


@pytest.fixture
def scored(monkeypatch):
    """A function that lets the epochs from number n on, of eight, score what SCORES says on the public test."""

    def begin(n=1):
        scores = iter(SCORES[n - 1 :])
        monkeypatch.setattr(train, "accuracy", lambda logits, labels: next(scores))

    begin()
    return begin


@pytest.fixture
def slow_writing(monkeypatch):
    """As on a GPU, five seconds lie between two writings, by a clock that the log moves: two seconds an epoch."""
    clock = SimpleNamespace(now=0.0)

    def read():
        clock.now += 1e-3
        return clock.now

    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=read))
    monkeypatch.setitem(train.PAUSE, "cpu", train.PAUSE["cuda"])
    return clock


def test_a_folder_that_lags_holds_the_best_weights_so_far(data, tmp_path, scored, slow_writing, monkeypatch):
    config, lagging, best, every = quick(epochs=8), [], [], []

    def log_lagging(line):
        slow_writing.now += 2.0
        there = (tmp_path / "lag" / "record.json").exists()
        lagging.append(len(read_record(tmp_path / "lag" / "record.json")["epochs"]) if there else 0)
        if lagging[-1] == len(lagging):
            best.append(load_network(tmp_path / "lag" / "best.safetensors"))

    net, _ = fit(data, config, tmp_path / "lag", log=log_lagging)
    assert lagging == [0, 0, 0, 4, 4, 4, 7, 8]  # at 6 seconds, at 12, and at the end
    assert [meta["epoch"] for _, meta in best] == [2, 6, 6]
    assert [meta["public_accuracy"] for _, meta in best] == [0.5, 0.7, 0.7]

    scored()
    monkeypatch.setitem(train.PAUSE, "cpu", 0.0)
    fit(data, config, tmp_path / "each", log=lambda line: every.append(load_network(tmp_path / "each" / FILES[0])))
    assert [meta["epoch"] for _, meta in every] == [1, 2, 2, 2, 5, 6, 6, 6]
    for saved, meta in best:
        assert_same_tensors(saved.state_dict(), every[meta["epoch"] - 1][0].state_dict())
    assert_same_tensors(net.state_dict(), every[5][0].state_dict())
    assert_same_run(tmp_path / "lag", tmp_path / "each")


def test_a_run_whose_folder_lags_resumes_from_what_was_written(data, tmp_path, scored, slow_writing):
    def cut(line):
        slow_writing.now += 2.0
        if line.startswith("epoch   6/8"):
            raise Cut

    def go_on(line):
        slow_writing.now += 2.0

    fit(data, quick(epochs=8), tmp_path / "whole", log=go_on)
    scored()
    with pytest.raises(Cut):
        fit(data, quick(epochs=8), tmp_path / "cut", log=cut)
    assert len(read_record(tmp_path / "cut" / "record.json")["epochs"]) == 4
    scored(5)
    fit(data, quick(epochs=8), tmp_path / "cut", resume=True, log=go_on)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_cpu_writes_after_each_epoch_and_a_gpu_does_not():
    assert train.PAUSE["cpu"] == 0 < train.PAUSE["cuda"]


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_a_nan_stops_the_run_and_the_last_epoch_stays(data, tmp_path, monkeypatch):
    fit(data, quick(), tmp_path / "whole")
    calls = []

    def broken(images, strength, generator):
        calls.append(1)
        x = augment(images, strength, generator)
        return x * math.nan if len(calls) == 5 else x  # three steps an epoch

    monkeypatch.setattr(train, "augment", broken)
    with pytest.raises(TrainingStopped, match=r"^epoch 2, step 2: loss nan, .*lower lr.*last whole epoch is kept$"):
        fit(data, quick(), tmp_path / "run")
    assert len(read_record(tmp_path / "run" / "record.json")["epochs"]) == 1
    load_network(tmp_path / "run" / "best.safetensors")
    fit(data, quick(), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(data, monkeypatch):
    nets = []

    def broken(arch, network):
        net = build(arch, network)
        net.embed.weight.register_hook(lambda gradient: gradient / 0)
        nets.append((net, net.embed.weight.detach().clone()))
        return net

    monkeypatch.setattr(train, "build", broken)
    with pytest.raises(TrainingStopped, match=r"epoch 1, step 1: loss \d+\.\d+, gradient norm (nan|inf)"):
        fit(data, quick())
    assert torch.equal(nets[0][0].embed.weight, nets[0][1])


def test_a_mad_learning_rate_is_stopped(data, tmp_path):
    with pytest.raises(TrainingStopped) as caught:
        fit(data, quick(optimizer="sgd", lr=1e30, epochs=8), tmp_path)
    assert "\n" not in str(caught.value)
    for name in contents(tmp_path):
        if name.endswith(".safetensors"):
            assert all(t.isfinite().all() for t in load_file(tmp_path / name).values())


def test_weights_that_the_last_step_made_infinite_stop_the_run(data, tmp_path):
    """No further step comes whose loss would tell."""
    few = replace(data, train=data.train.subset(slice(0, 4)))
    config = quick(batch=4, epochs=1, lr=1e38, weight_decay=1e6, schedule="constant", ema=0.0)
    with pytest.raises(TrainingStopped, match="weights that are not finite, though its loss was; lower lr or weight"):
        fit(few, config, tmp_path / "run")
    assert not (tmp_path / "run" / "best.safetensors").exists()


# --- Another start ----------------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_it_is_given(data):
    torch.manual_seed(7)
    start = build("mifad", MINI)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    still, record = fit(data, quick(lr=0.0, epochs=1), start=start)
    assert all(torch.equal(p, before[name]) for name, p in still.named_parameters())
    assert record["start"] == weights_of(start)
    fit(data, quick(epochs=1), start=start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    assert "start" not in fit(data, quick(epochs=1))[1]


def test_a_run_from_given_weights_resumes_bit_for_bit(data, tmp_path):
    torch.manual_seed(7)
    start, other = build("mifad", MINI), build("mifad", MINI)
    fit(data, quick(), tmp_path / "whole", start=start)
    with pytest.raises(Cut):
        fit(data, quick(), tmp_path / "cut", log=cut_after(1), start=start)
    for wrong in (other, None):
        with pytest.raises(ValueError, match="this run started from other weights; name the same to --start"):
            fit(data, quick(), tmp_path / "cut", resume=True, start=wrong)
    fit(data, quick(), tmp_path / "cut", resume=True, start=start)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert read_record(tmp_path / "cut" / "record.json")["start"] == weights_of(start)


@pytest.mark.parametrize(
    ("arch", "network", "says"),
    [
        ("mifad", {**MINI, "embedding": 9}, r"has embedding = 9, and not 8: ask for the same, or start afresh$"),
        ("resnet18", {"width": 4}, r"is a ResNet18, and not a MIFADNet: ask"),
    ],
)
def test_another_network_is_no_start(data, arch, network, says, tmp_path):
    with pytest.raises(ValueError, match="^the network to start from " + says):
        fit(data, quick(), tmp_path / "run", start=build(arch, network))
    assert not (tmp_path / "run").exists()
