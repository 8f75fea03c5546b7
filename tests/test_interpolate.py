"""The line between two networks: its points against numpy, and the choice against the public test alone."""

import copy

import numpy as np
import pytest
import torch

import mifad_lite.__main__ as cli
from mifad_lite.baseline import ResNetConfig
from mifad_lite.checkpoint import build, load_network, save_network, weights_of
from mifad_lite.evaluate import accuracy, predict_logits
from mifad_lite.interpolate import between, interpolate, rise
from mifad_lite.model import PRESETS
from mifad_lite.records import read_record
from mifad_lite.synthetic import synthetic_data

TINY = {**PRESETS["tiny"].to_dict(), "head": "linear"}


@pytest.fixture(scope="module")
def data():
    return synthetic_data(16, public=40, private=8)


@pytest.fixture
def pair():
    """Two networks whose norms have seen faces, a different number of times."""
    torch.manual_seed(3)
    nets = [build("mifad", TINY) for _ in range(2)]
    for count, net in enumerate(nets, 1):
        for _ in range(count):
            net.train()(torch.rand(6, 1, 48, 48))
    return nets


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_between_is_a_weighted_mean(pair, share):
    a, b = (net.state_dict() for net in pair)
    for name, tensor in between(a, b, share).items():
        assert tensor.dtype == b[name].dtype
        if name.endswith("num_batches_tracked"):
            assert tensor == b[name] == 2
        else:
            exact = (1 - share) * a[name].double().numpy() + share * b[name].double().numpy()
            np.testing.assert_allclose(tensor.double().numpy(), exact, rtol=1e-5, atol=1e-7)


def test_the_most_accurate_place_is_kept(pair, data):
    a, b = pair
    ends = [weights_of(net) for net in pair]
    states = [copy.deepcopy(net.state_dict()) for net in pair]
    net, found = interpolate(a, b, data, steps=3)
    assert found["ends"] == ends
    assert weights_of(a) == ends[0], "the first network stays as it was"
    assert [p["share"] for p in found["points"]] == pytest.approx([0, 1 / 3, 2 / 3, 1])

    probe, seen = build("mifad", TINY), []
    for point in found["points"]:
        probe.load_state_dict(between(*states, point["share"]))
        logits = predict_logits(probe, data.public.images)
        assert accuracy(logits, data.public.labels) == pytest.approx(point["public_accuracy"], abs=1e-6)
        exponents = np.exp(logits.double().numpy())
        chances = exponents / exponents.sum(1, keepdims=True)
        loss = -np.log(chances[np.arange(len(chances)), data.public.labels]).mean()
        assert loss == pytest.approx(point["public_loss"], abs=1e-5)
        seen.append((point["public_accuracy"], -point["public_loss"], point["share"]))
    assert found["best_share"] == max(seen)[2]
    probe.load_state_dict(between(*states, found["best_share"]))
    assert weights_of(net) == weights_of(probe)
    assert not net.training


def test_equal_accuracies_are_told_apart_by_the_loss(pair, data):
    """Heads that see one class everywhere, more and less sure of it: all hit the same faces."""
    for net, sure in zip(pair, (6.0, 2.0), strict=True):
        with torch.no_grad():
            net.head.weight.zero_()
            net.head.bias.zero_()[3] = sure
    _, found = interpolate(*pair, data, steps=2)
    assert len({p["public_accuracy"] for p in found["points"]}) == 1
    assert found["best_share"] == 1


def test_the_private_test_is_not_looked_at(pair, data):
    class Sealed:
        def __getattr__(self, name):
            raise AssertionError("the private test was opened")

    sealed = type(data)(data.train, data.public, Sealed(), data.name, data.sha256)
    lines = []
    interpolate(*pair, sealed, steps=1, log=lines.append)
    assert len(lines) == 2


def slope_of(net, faces):
    """The gradient of the mean cross-entropy in evaluation mode as one vector, and that loss; in float64."""
    net = copy.deepcopy(net).double().eval()
    scores = net(faces.images.double() / 255).log_softmax(1)
    loss = -scores[torch.arange(len(faces)), faces.labels].mean()
    weights = list(net.parameters())
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)], loss.item()


@pytest.mark.parametrize("batch", [7, 256])
def test_the_rise_is_the_loss_up_the_slope_minus_the_loss_here(pair, data, batch):
    net = pair[0].train()
    slope, here = slope_of(net, data.public)
    length = sum(g.square().sum() for g in slope).sqrt()
    above = copy.deepcopy(net)
    with torch.no_grad():
        for w, g in zip(above.parameters(), slope, strict=True):
            w += (0.3 * g / length).float()
    _, there = slope_of(above, data.public)
    before, marks = weights_of(net), [torch.ones_like(p) for p in net.parameters()]
    for p, mark in zip(net.parameters(), marks, strict=True):
        p.grad = mark
    assert rise(net, data.public, 0.3, batch) == pytest.approx(there - here, rel=1e-3)
    assert weights_of(net) == before
    assert net.training
    assert all(p.grad is mark for p, mark in zip(net.parameters(), marks, strict=True)), "gradients are given back"
    small = rise(net, data.public, 1e-2, batch)
    assert small == pytest.approx(1e-2 * length.item(), rel=0.1), "close by it is the length of the gradient"


def test_the_rise_stands_beside_each_place_and_chooses_nothing(pair, data):
    states = [copy.deepcopy(net.state_dict()) for net in pair]
    _, found = interpolate(*copy.deepcopy(pair), data, 2, radius=0.2)
    _, plain = interpolate(*pair, data, 2)
    assert found["radius"] == 0.2
    assert "radius" not in plain
    probe = build("mifad", TINY)
    for point in found["points"]:
        probe.load_state_dict(between(*states, point["share"]))
        assert point.pop("public_rise") == pytest.approx(rise(probe, data.public, 0.2), abs=2e-6)
    assert found["points"] == plain["points"]
    assert found["best_share"] == plain["best_share"]


@pytest.mark.parametrize("radius", [-0.1, float("inf"), float("nan")])
def test_a_radius_is_a_distance(pair, data, radius):
    with pytest.raises(ValueError, match=r"^radius = \S+ must be a number from 0$"):
        interpolate(*pair, data, radius=radius)


@pytest.mark.parametrize(
    ("arch", "network", "steps", "says"),
    [
        ("mifad", TINY, 0, r"^steps = 0: from one network to another it takes at least 1$"),
        (
            "mifad",
            {**TINY, "embedding": 9},
            4,
            r"^the first network has embedding = 9, and not 32, so there is no line",
        ),
        ("resnet18", ResNetConfig(4).to_dict(), 4, r"^the first network is a ResNet18, and not a MIFADNet, so"),
    ],
)
def test_what_has_no_line_between_is_refused(data, arch, network, steps, says):
    b = build("mifad", TINY)
    before = weights_of(b)
    with pytest.raises(ValueError, match=says):
        interpolate(build(arch, network), b, data, steps)
    assert weights_of(b) == before


def test_command(pair, tmp_path, capsys):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, net in zip(paths, pair, strict=True):
        save_network(path, net)
    words = ["interpolate", *paths, "--data", "drawn:16,public=20,private=8", "--steps", 2]
    saved, out = tmp_path / "between.safetensors", tmp_path / "between.json"
    assert cli.main([str(word) for word in (*words, "--rise", 0.05, "--save", saved, "--out", out)]) == 0
    record, (net, meta) = read_record(out), load_network(saved)
    assert (record["kind"], record["steps"], len(record["points"])) == ("interpolate", 2, 3)
    assert record["radius"] == 0.05
    assert all(point["public_rise"] > 0 for point in record["points"])
    assert meta["ends"] == record["ends"] == [weights_of(net) for net in pair]
    assert meta["share"] == record["best_share"]
    wanted = between(*(p.state_dict() for p in pair), record["best_share"])
    assert all(torch.equal(t, wanted[name]) for name, t in net.state_dict().items())
    assert f"share {record['best_share']:.2f} of" in capsys.readouterr().out
