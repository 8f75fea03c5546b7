"""The line between two networks: its points against numpy, and the choice against the public test alone."""

import copy

import numpy as np
import pytest
import torch

import mifad_lite.__main__ as cli
from mifad_lite.baseline import ResNetConfig
from mifad_lite.checkpoint import build, load_network, save_network, weights_of
from mifad_lite.evaluate import accuracy, predict_logits
from mifad_lite.interpolate import between, interpolate
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
    assert cli.main([str(word) for word in (*words, "--save", saved, "--out", out)]) == 0
    record, (net, meta) = read_record(out), load_network(saved)
    assert (record["kind"], record["steps"], len(record["points"])) == ("interpolate", 2, 3)
    assert meta["ends"] == record["ends"] == [weights_of(net) for net in pair]
    assert meta["share"] == record["best_share"]
    wanted = between(*(p.state_dict() for p in pair), record["best_share"])
    assert all(torch.equal(t, wanted[name]) for name, t in net.state_dict().items())
    assert f"share {record['best_share']:.2f} of" in capsys.readouterr().out
