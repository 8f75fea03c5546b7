"""Evaluation: Wilson's interval by two independent ways, counts by plain loops, logits that depend on no batch size."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from formulas import array
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from torch import nn

from mifad_lite import CLASSES, PRESETS, FaceSet, MIFADNet, synthetic_faces
from mifad_lite.evaluate import (
    Z95,
    accuracy,
    confusion_counts,
    evaluate_split,
    predict_logits,
    score,
    unpack_hits,
    wilson_interval,
)


class Linear(nn.Module):
    """Seven weighted sums of the pixels, with a norm and dropout that tell training from evaluation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2304, 7), nn.BatchNorm1d(7), nn.Dropout(0.5))

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return self.layers(x)

    def formula(self, images):
        layer = self.layers[1]
        x = images.numpy().reshape(len(images), -1) / 255
        return (x @ array(layer.weight).T + array(layer.bias)) / np.sqrt(1 + 1e-5)


def pictures(n, seed=0):
    return torch.randint(0, 256, (n, 1, 48, 48), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def logits_for(predicted):
    return nn.functional.one_hot(torch.as_tensor(predicted), 7).float()


# --- Wilson's interval -----------------------------------------------------------------------------------------------


def test_z_is_the_two_sided_95_percent_quantile():
    assert pytest.approx(norm.ppf(0.975), abs=1e-12) == Z95


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(hits, n, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), Table I, method 3."""
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4))
@settings(deadline=None, max_examples=100)
def test_wilson_ends_solve_the_score_equation(case, z):
    """An end p of the interval lies z standard errors, taken at p, from the observed part."""
    hits, n = case
    observed = hits / n
    low, high = wilson_interval(hits, n, z)

    def excess(p):
        return (observed - p) ** 2 - z * z * p * (1 - p) / n

    step = 1e-6  # off the observed part, which solves the equation too where it is 0 or 1
    assert low == pytest.approx(brentq(excess, 0, observed - step) if hits else 0, abs=1e-9)
    assert high == pytest.approx(brentq(excess, observed + step, 1) if hits < n else 1, abs=1e-9)
    assert 0 <= low <= observed + 1e-12
    assert observed - 1e-12 <= high <= 1


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=50)
def test_wilson_equals_scipy(case):
    assert wilson_interval(*case) == pytest.approx(tuple(binomtest(*case).proportion_ci(method="wilson")), abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_out_of_range(hits, n):
    with pytest.raises(ValueError, match=f"{hits} hits of {n}: an interval needs 0 <= hits <= n and n > 0"):
        wilson_interval(hits, n)


# --- counts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
@settings(deadline=None, max_examples=50)
def test_score_equals_plain_loops(pairs):
    labels, predicted = (torch.tensor(x) for x in zip(*pairs, strict=True))
    counts = np.zeros((7, 7), dtype=int)
    for true, guess in pairs:
        counts[true, guess] += 1
    hits = sum(true == guess for true, guess in pairs)
    per_class = {}
    for k, name in enumerate(CLASSES):
        own = [guess == k for true, guess in pairs if true == k]
        per_class[name] = pytest.approx(sum(own) / len(own)) if own else None

    assert np.array_equal(confusion_counts(predicted, labels).numpy(), counts)
    assert accuracy(logits_for(predicted), labels) == pytest.approx(hits / len(pairs), abs=1e-12)
    result = score(logits_for(predicted), labels)
    right = unpack_hits(result["right"], len(labels))
    assert right.tolist() == [p == t for p, t in zip(torch.as_tensor(predicted).tolist(), labels.tolist(), strict=True)]
    assert result["n"] == len(pairs)
    assert result["hits"] == hits
    assert result["accuracy"] == pytest.approx(hits / len(pairs))
    assert result["confusion"] == counts.tolist()
    assert result["per_class"] == per_class
    assert result["wilson_95"] == pytest.approx(list(wilson_interval(hits, len(pairs))))


@pytest.mark.parametrize("width", [5, 6, 8])
def test_logits_that_are_not_one_for_each_class_are_refused(width):
    """An eighth class would be booked in the next row."""
    with pytest.raises(ValueError, match=rf"logits \(4, {width}\) for 4 labels: score needs 7 an image"):
        score(torch.eye(width)[-1:].expand(4, -1), torch.arange(4))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = logits_for([0, 1, 2])
    logits[1, 3] = bad
    with pytest.raises(ValueError, match="some logits are not finite"):
        score(logits, torch.arange(3))


@pytest.mark.parametrize(("low", "high"), [(0, 7), (-1, 3)])
def test_classes_out_of_range_are_not_counted(low, high):
    good, bad = torch.tensor([0, 6]), torch.tensor([low, high])
    with pytest.raises(ValueError, match=f"predictions run from {low} to {high}, and 7 classes from 0 to 6"):
        confusion_counts(bad, good)
    with pytest.raises(ValueError, match=f"labels run from {low} to {high}, and 7 classes from 0 to 6"):
        confusion_counts(good, bad)
    assert confusion_counts(good[:0], good[:0]).sum() == 0


def test_accuracy_of_many_images_is_not_rounded():
    """3,589 images in float32 would be off in the eighth digit; the record keeps the exact quotient."""
    labels = torch.zeros(3589, dtype=torch.int64)
    predicted = labels.clone()
    predicted[2408:] = 1
    assert accuracy(logits_for(predicted), labels) == 2408 / 3589


@pytest.mark.parametrize("twins", [[0, 3, 4], [], None])
def test_twin_free_part_leaves_out_the_twins(twins):
    """Whole split and twin-free part, image by image, against the network's own guesses."""
    net, images = Linear(), pictures(12)
    guesses = net.formula(images).argmax(1)
    labels = torch.from_numpy(np.where(np.arange(12) % 3 == 0, guesses, (guesses + 1) % 7))
    twin = None
    if twins is not None:
        twin = torch.zeros(12, dtype=torch.bool)
        twin[twins] = True
    result = evaluate_split(net, FaceSet(images, labels, twin))
    assert (result["whole"]["hits"], result["whole"]["n"]) == (4, 12)
    if twins is None:
        assert result.keys() == {"whole"}
    else:
        assert (result["twin_free"]["hits"], result["twin_free"]["n"]) == ((2, 9) if twins else (4, 12))


# --- logits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 20, 256])
def test_logits_do_not_depend_on_the_batch_size(batch):
    """Pixels over 255, rows in order, in evaluation mode, float32 and without gradient."""
    net, images = Linear().train(), pictures(20)
    logits = predict_logits(net, images, batch=batch)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    np.testing.assert_allclose(array(logits), net.formula(images), rtol=1e-5, atol=1e-5)


def test_batches_side_by_side_give_the_same_rows_and_leave_the_threads_as_they_are():
    """Two batches are under way at a time, each with half of four threads; later threads have all four again."""
    net, images, seen = Linear(), pictures(20), []
    together = threading.Barrier(2, timeout=60)

    def look(module, given):
        together.wait()
        seen.append((threading.get_ident(), torch.get_num_threads()))

    net.register_forward_pre_hook(look)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        logits = predict_logits(net, images, batch=5, at_once=2)
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 4
    assert {threads for _, threads in seen} == {2}
    assert len({who for who, _ in seen} - {threading.get_ident()}) == 2
    np.testing.assert_allclose(array(logits), net.formula(images), rtol=1e-5, atol=1e-5)


def test_a_batch_that_fails_side_by_side_is_heard():
    net = Linear()
    net.register_forward_pre_hook(lambda module, given: 1 / 0)
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        predict_logits(net, pictures(4), batch=2, at_once=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_network_keeps_its_mode(at_once):
    """Module by module: a part that was in evaluation mode before stays there."""
    net = Linear().train()
    net.layers[2].eval()
    modes = [m.training for m in net.modules()]
    predict_logits(net, pictures(5), batch=3, at_once=at_once)
    assert [m.training for m in net.modules()] == modes
    evaluate_split(net, FaceSet(pictures(5), torch.arange(5), None))
    assert [m.training for m in net.modules()] == modes
    net.register_forward_pre_hook(lambda module, given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict_logits(net, pictures(4), batch=2, at_once=at_once)
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize("sizes", [{"at_once": 0}, {"at_once": -1}, {"batch": 0}, {"batch": -3}])
def test_batches_below_one_are_refused(sizes):
    ((name, value),) = sizes.items()
    with pytest.raises(ValueError, match=f"{name} = {value}.*both must be at least 1"):
        predict_logits(Linear(), pictures(4), **sizes)


def test_floats_are_not_divided_again():
    with pytest.raises(ValueError, match="torch.float32 images are not divided by 255 again: give uint8"):
        predict_logits(Linear(), pictures(4) / 255)


def test_flip_averages_with_the_mirror_image():
    net, images = Linear(), pictures(9)
    mirrored = images.flip(3).contiguous()
    expected = (net.formula(images) + net.formula(mirrored)) / 2
    both = predict_logits(net, images, flip=True, batch=4)
    np.testing.assert_allclose(array(both), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predict_logits(net, mirrored, flip=True), both)
    assert not torch.allclose(predict_logits(net, images), both, atol=1e-3)


def test_flip_and_bf16_reach_the_score():
    """A network that knows left from right: only with the mirror image does it see both faces alike."""

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(7)[:1])
            self.types = set()

        def forward(self, x):
            self.types.add((x.flatten(1) @ x.flatten(1).T).dtype)
            return x[:, 0, :, :24].mean((1, 2))[:, None] * self.weight + 0.4 * torch.eye(7)[1]

    images = torch.zeros(2, 1, 48, 48, dtype=torch.uint8)
    images[0, ..., :24] = images[1, ..., 24:] = 255
    net = Left()
    faces = FaceSet(images, torch.zeros(2, dtype=torch.int64), None)
    assert evaluate_split(net, faces)["whole"]["hits"] == 1
    assert evaluate_split(net, faces, flip=True)["whole"]["hits"] == 2
    assert net.types == {torch.float32}
    net.types.clear()
    assert predict_logits(net, images, bf16=True).dtype == torch.float32
    assert net.types == {torch.bfloat16}
    net.types.clear()
    assert evaluate_split(net, faces, bf16=True)["whole"]["hits"] == 1
    assert net.types == {torch.bfloat16}


def test_a_split_of_twins_alone_has_no_twin_free_part():
    faces = synthetic_faces(7)
    faces.twin = torch.ones(7, dtype=torch.bool)
    assert set(evaluate_split(MIFADNet(PRESETS["tiny"]), faces)) == {"whole"}


def test_an_empty_split_is_one_sentence():
    empty = synthetic_faces(7).subset(slice(0, 0))
    with pytest.raises(ValueError, match="no images to score"):
        evaluate_split(MIFADNet(PRESETS["tiny"]), empty)
    with pytest.raises(ValueError, match="no images to score"):
        score(torch.zeros(0, 7), empty.labels)
