"""The inspection of a network, each part against plain loops or a case whose answer is known."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formulas import scramble
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import mifad_lite.__main__ as cli
from mifad_lite import (
    CLASSES,
    FaceSet,
    MIFADConfig,
    MIFADNet,
    ResNet18,
    ResNetConfig,
    inspection,
    plots,
    save_network,
    synthetic_data,
)
from mifad_lite.evaluate import predict_logits
from mifad_lite.explorer import columns_of, occlusion
from mifad_lite.interactive import pack
from mifad_lite.records import read_record

MINI = MIFADConfig(widths=(2, 2, 4, 4, 4, 4), channels=4, embedding=8)


@pytest.fixture(scope="module")
def net():
    """A small network whose every weight has moved, alpha and beta too."""
    torch.manual_seed(0)
    return scramble(MIFADNet(MINI)).eval()


@pytest.fixture(scope="module")
def data():
    return synthetic_data(35, 21, 28, seed=1)


def one_hot(predicted):
    return 5 * F.one_hot(torch.as_tensor(predicted), 7).double()


# --- Mistakes and twins ----------------------------------------------------------------------------------------------


def test_worst_mistakes_come_first_and_hits_never():
    logits = torch.zeros(4, 7)
    logits[0, 3], logits[1, 3], logits[2, 0], logits[3, 6] = 2, 9, 1, 4
    found = inspection.worst_mistakes(logits, torch.tensor([1, 3, 5, 2]), n=2)
    assert [(m["index"], m["true"], m["predicted"]) for m in found] == [(3, "fear", "neutral"), (0, "disgust", "happy")]
    top = np.exp(4) / (np.exp(4) + 6)
    assert found[0]["confidence"] == pytest.approx(top, abs=1e-4)
    assert found[0]["true_probability"] == pytest.approx((1 - top) / 6, abs=1e-4)


def test_twins_by_the_label_that_stood_in_training():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 48, 48)
    train = FaceSet(images[[0, 1, 1, 2]], torch.tensor([3, 0, 4, 5]))
    faces = FaceSet(images, torch.tensor([3, 4, 6, 0, 1]))  # agrees; one of two copies conflicts; conflicts; new; new
    found = inspection.twin_accuracy(one_hot([3, 0, 5, 0, 2]), faces, train)
    counts = {k: (v["hits"], v["n"]) for k, v in found.items()}
    assert counts == {"no_twin": (1, 2), "agree": (1, 1), "conflict": (0, 2)}
    assert found["conflict"]["repeats_a_training_label"] == 2
    alone = inspection.twin_accuracy(one_hot([1]), faces.subset([4]), train)
    assert alone["agree"] == {"n": 0, "hits": 0, "accuracy": None, "wilson_95": None}


def test_precision_is_by_column():
    counts = torch.tensor([[3, 1, 0], [1, 2, 0], [0, 5, 0]])
    assert inspection.precision(counts) == [0.75, 0.25, None]


def test_per_class_draws_that_many_of_each():
    labels = torch.arange(7).repeat(6)[:40]
    chosen = inspection.per_class(labels, 5)
    assert labels[chosen].tolist() == [c for c in range(7) for _ in range(5)]
    assert len(chosen.unique()) == 35
    assert torch.equal(chosen, inspection.per_class(labels, 5))
    assert len(inspection.per_class(labels, 100)) == 40


# --- Without a part --------------------------------------------------------------------------------------------------


def test_embed_is_the_second_half_of_the_network(net, data):
    x = data.private.images[:4].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(inspection.embed(net, columns_of(net, x)), net.features(x))


def test_lost_parts_against_hooks_and_edited_weights(net, data, monkeypatch):
    """Every lesion once more, by other means: a copy with zeroed weights, a hook on the column."""
    monkeypatch.setattr(inspection, "BATCH", 5)
    images, reference = data.private.images, data.public.images
    found = inspection.without_parts(net, images, reference)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    torch.testing.assert_close(found["whole"], predict_logits(net, images))
    for name, ends in (("alpha = 0", ("alpha",)), ("beta = 0", ("beta",)), ("both = 0", ("alpha", "beta"))):
        other = MIFADNet(MINI)
        other.load_state_dict({k: torch.zeros_like(v) if k.endswith(ends) else v for k, v in state.items()})
        torch.testing.assert_close(found[name], predict_logits(other, images))
        assert not torch.allclose(found[name], found["whole"], atol=1e-3)
    for k, kernel in enumerate(MINI.kernel_sizes):
        with torch.no_grad():
            mean = [f.mean(0, keepdim=True) for f in columns_of(net, reference.float() / 255)[k]]
        for name, scale in (("zero", 0), ("mean", 1)):
            hook = net.columns[k].register_forward_hook(
                lambda _, __, out, s=scale, mean=mean: [s * m.expand_as(f) for m, f in zip(mean, out, strict=True)]
            )
            expected = predict_logits(net, images)
            hook.remove()
            torch.testing.assert_close(found[f"column {kernel} {name}"], expected)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()), "the network is as it was"


def test_muted_weights_come_back_after_an_error(net):
    weights = inspection.attention_weights(net)["alpha"]
    before = [w.item() for w in weights]

    def stop():
        with inspection.muted(weights):
            assert [w.item() for w in weights] == [0, 0, 0]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [w.item() for w in weights] == before


# --- Where it looks --------------------------------------------------------------------------------------------------


def test_attention_received_is_a_column_mean(net, data):
    received = inspection.attention_received(net, data.private.images[:3])
    with torch.no_grad():
        _, maps = net.features(data.private.images[:3].float() / 255, return_maps=True)
    for i, depth in enumerate((4, 5, 6)):
        expected = 144 * maps[depth]["spatial"].double().sum(1).view(3, 12, 12) / 144
        torch.testing.assert_close(received[:, i].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(received.mean((2, 3)), torch.ones(3, 3))
    other = MIFADNet(replace(MINI, attention="channel"))
    with pytest.raises(ValueError, match="no spatial attention"):
        inspection.attention_received(other, data.private.images)


def test_under_patch_by_pixels():
    received = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    found = inspection.under_patch(received)
    for i, j in ((0, 0), (12, 12), (3, 7), (5, 1)):
        pixels = [received[..., y // 4, x // 4] for y in range(3 * i, 3 * i + 12) for x in range(3 * j, 3 * j + 12)]
        torch.testing.assert_close(found[..., i, j], sum(pixels) / 144)


@given(st.integers(3, 12).flatmap(lambda n: st.lists(st.integers(-3, 3), min_size=2 * n, max_size=2 * n)))
@settings(deadline=None, max_examples=60)
def test_rank_correlation_is_scipys(values):
    a, b = np.array(values, dtype=float).reshape(2, -1)
    found = inspection.rank_correlation(torch.tensor(a)[None], torch.tensor(b)[None]).item()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_drops_are_plain_minus_hidden(net, data):
    faces = data.private.subset(slice(0, 3))
    drops = inspection.occlusion_drops(net, faces.images, faces.labels)
    for x, label, drop in zip(faces.images.float() / 255, faces.labels, drops, strict=True):
        with torch.no_grad():
            expected = net(x[None]).softmax(1)[0, label] - occlusion(net, x)[..., label]
        torch.testing.assert_close(drop, expected)
    rough = inspection.occlusion_drops(net, faces.images, faces.labels, bf16=True)
    assert 0 < (rough - drops).abs().mean() < 0.02


def test_agreement_of_a_map_with_itself():
    received = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    drops = inspection.under_patch(received)[:, 1]
    found = inspection.agreement(drops, received)
    assert [f["depth"] for f in found] == [4, 5, 6]
    assert found[1]["mean"] == 1
    assert found[1]["quartiles"] == [1, 1, 1]
    assert all(abs(f["other"]) < 0.4 for f in found)
    assert abs(found[0]["mean"]) < 0.4


# --- Changed pictures ------------------------------------------------------------------------------------------------


def test_changes_of_a_picture():
    images = torch.full((1, 1, 48, 48), 100, dtype=torch.uint8)
    images[..., 20, 30] = 228
    changed = {name: change(images) for name, change in inspection.SHIFTS.items()}
    assert all(c.dtype == torch.uint8 and c.shape == images.shape for c in changed.values())
    assert torch.equal(changed["none"], images)
    assert changed["mirror"][0, 0, 20, 17] == changed["upside down"][0, 0, 27, 30] == 228
    once = inspection.blurred(images, times=1)[0, 0, 19:22, 29:32]
    assert once.tolist() == [[108, 116, 108], [116, 132, 116], [108, 116, 108]]
    assert changed["half contrast"].flatten().unique().tolist() == [114, 178]
    noise = changed["noise"].float() - images.float()
    assert 18 < noise.std() < 22
    assert torch.equal(changed["noise"], inspection.noisy(images))


def test_shift_keeps_the_temperature(net, data):
    found = inspection.under_shift(net, data.private, temperature=3.0)
    logits = predict_logits(net, inspection.blurred(data.private.images))
    p = (logits.double() / 3).softmax(1)
    assert found["blur"]["confidence"] == pytest.approx(p.amax(1).mean().item())
    assert found["blur"]["hits"] == (logits.argmax(1) == data.private.labels).sum()


# --- On the sphere ---------------------------------------------------------------------------------------------------


def test_principal_axes_are_numpys():
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([5, 1, 3, 1, 2])
    mean, axes, parts = inspection.principal_axes(points)
    values, vectors = np.linalg.eigh(np.cov(points.numpy().T))
    for i in range(2):
        assert abs(vectors[:, -1 - i] @ axes[i].numpy()) == pytest.approx(1)
        assert axes[i][axes[i].abs().argmax()] > 0
        assert parts[i].item() == pytest.approx(values[-1 - i] / values.sum())
    assert torch.allclose(mean, points.mean(0))


def test_sphere_places_faces_and_directions_in_one_plane(net, data):
    chosen = torch.arange(20)
    found = inspection.sphere(net, data.private, chosen)
    assert found["label"] == data.private.labels[:20].tolist()
    points = inspection.embeddings(net, data.private.images[:20]).double()
    torch.testing.assert_close(points.norm(dim=1), torch.ones(20).double(), atol=1e-6, rtol=0)
    centred = points - points.mean(0)
    flat = torch.tensor(found["points"])
    assert flat.double().square().sum() / centred.square().sum() == pytest.approx(sum(found["variance"]), abs=2e-3)
    between = torch.tensor(found["between_directions"])
    assert torch.equal(between, between.T)
    assert between.diagonal().tolist() == [1] * 7


def test_scatter_draws_points_arrows_and_names(net, data):
    found = inspection.sphere(net, data.private, torch.arange(20))
    bare = {k: found[k] for k in ("points", "label", "variance")}
    fig = plots.embedding_scatter({"all": found, "no directions": bare})
    first, second = fig.axes[:2]
    for ax in (first, second):
        drawn = [tuple(p) for dots in ax.collections for p in np.asarray(dots.get_offsets())]
        assert sorted(drawn) == sorted(map(tuple, found["points"]))
    names = [text for text in first.texts if text.get_text()]
    assert [text.get_text() for text in names] == list(CLASSES)
    assert [text.xy for text in names] == [tuple(d) for d in found["directions"]]
    places = np.array([text.get_position() for text in names])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(7, 1)]
    assert apart.min() > 0.15 * np.linalg.norm(places, axis=1).min(), "no name on another"
    assert not second.texts
    plt.close(fig)


def test_picture_rows_put_captions_above_pictures():
    fig = plots.picture_rows(np.arange(45.0).reshape(5, 3, 3), list("abcde"), across=2, cmap="viridis", vmin=0, vmax=45)
    pictures = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in pictures] == list("abcde")
    assert pictures[3].images[0].get_array()[0, 0] == 27
    assert len(fig.axes) == 7, "six places and a color bar"
    plt.close(fig)


# --- The record and its command --------------------------------------------------------------------------------------


def test_command(net, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "synthetic_data", lambda: data)
    save_network(tmp_path / "net.safetensors", net)
    out = tmp_path / "inspection.json"
    args = ["inspect", "--data", "drawn", "--checkpoint", tmp_path / "net.safetensors", "--faces", "2"]
    args += ["--show", "--out", out]
    assert cli.main([str(a) for a in args]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = read_record(out)
    assert f"private test {100 * found['private']['accuracy']:.2f} %" in printed
    assert found["kind"] == "inspect"
    assert found["private"]["n"] == 28
    assert found["twins"]["no_twin"]["n"] == 28
    assert found["occlusion"]["faces"] == [2] * 7
    assert np.shape(found["occlusion"]["drop"]) == (7, 13, 13)
    assert np.shape(found["attention"]["received"]["5"]) == (12, 12)
    assert len(found["sphere"]["points"]) == 14
    assert np.shape(found["sphere"]["mean_cosine"]) == (7, 7)
    assert found["shift"]["none"]["hits"] == found["private"]["hits"] == found["without"]["whole"]["hits"]
    assert sum(found["calibration"]["before"]["bins"]["n"]) == 28
    assert sum(found["calibration"]["after"]["histogram"]) == 28
    assert found["drawn"] == "drawn"
    assert len(found["shown"]["occlusion"]) == 7
    assert len(json.dumps(found)) < 80_000


@pytest.mark.parametrize("change", [{"head": "linear"}, {"attention": "channel"}, {"attention": "none"}])
def test_inspect_takes_networks_without_a_part(change, data):
    torch.manual_seed(0)
    net = MIFADNet(replace(MINI, **change)).eval()
    found = inspection.inspect(net, data, faces_per_class=1)
    assert ("between_directions" in found["sphere"]) == (change.get("head") != "linear")
    assert ("received" in found["attention"]) == ("attention" not in change)


def test_shown_faces_are_right_and_of_every_class(net, data):
    """Of seven right and seven wrong faces the right ones are kept, however much the wrong ones change."""
    faces = data.private.subset(inspection.per_class(data.private.labels, 2))
    drops = torch.zeros(14, 13, 13)
    drops[1::2, :6] = 0.5  # the second face of each class varies most
    found = inspection.shown(net, faces, drops)
    right = predict_logits(net, faces.images).argmax(1) == faces.labels
    assert right.any()
    assert not right.all()
    expected = [2 * c + 1 if right[2 * c + 1] or not right[2 * c] else 2 * c for c in range(7)]
    assert found["label"] == list(range(7))
    assert found["faces"] == pack(faces.images[expected] / 255)
    with torch.no_grad():
        table = pack(occlusion(net, faces.images[expected[3]].float() / 255))
    assert found["occlusion"][3] == table
    assert np.shape(found["received"]) == (7, 3, 144)


def test_a_public_test_without_a_mistake_leaves_a_finite_record():
    """Then the temperature is the least, 0.01, and a wrong answer's probability rounds to 0."""
    labels = torch.arange(7)
    right, wrong = 10.0 * F.one_hot(labels, 7), 10.0 * F.one_hot((labels + 1) % 7, 7)
    found = inspection.calibration(right, labels, wrong, labels)
    assert found["temperature"] == pytest.approx(0.01)
    assert found["after"]["nll"] == pytest.approx(1000)


def test_people_are_not_shown(net, data):
    people = replace(data, name="FER2013")
    with pytest.raises(ValueError, match="shows people"):
        inspection.inspect(net, people, show=True)


def test_a_class_without_images_is_zero():
    means = inspection.class_means(torch.tensor([[2.0], [4.0]]), torch.tensor([1, 1]))
    assert means.flatten().tolist() == [0, 3, 0, 0, 0, 0, 0]


def test_what_cannot_be_inspected_is_named_at_once(net, data):
    with pytest.raises(ValueError, match="a ResNet18 has no columns.* takes a MIFADNet"):
        inspection.inspect(ResNet18(ResNetConfig(4)), data)
    for faces in (0, -1):
        with pytest.raises(ValueError, match=f"faces = {faces} must be at least 1"):
            inspection.inspect(net, data, faces)
