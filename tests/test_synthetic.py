"""Drawn faces: the same bytes for the same seed, dials that do what they say, expressions that show in the pixels."""

import hashlib
import itertools
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mifad_lite import synthetic
from mifad_lite.data import CLASSES
from mifad_lite.synthetic import PROTOTYPES, Face, prototype, render, synthetic_data, synthetic_faces

DIALS = (0.0, 0.25, 0.5, 0.75, 1.0)
FACE = (slice(17, 39), slice(14, 34))  # rows and columns that show neither hair nor backdrop on the plain face
CLEAN = dict(grain=0.0, light_x=0.0, light_y=-0.5)


def digest(faces):
    return hashlib.sha256(faces.images.numpy().tobytes() + faces.labels.numpy().tobytes()).hexdigest()


def clean(emotion, **moved):
    return render(replace(prototype(emotion), **CLEAN | moved))[0].astype(int)


def separation(intra, inter, n=40):
    """Variance of the class means over that inside the classes; every class gets the same n draws of all else."""
    classes = [synthetic_faces(n, 5, intra=intra, inter=inter, labels=[k] * n).images for k in range(7)]
    pixels = torch.stack(classes).flatten(2).double()  # (7, n, 2304)
    means = pixels.mean(1)
    return (means.var(0).sum() / (pixels - means[:, None]).square().sum(2).mean()).item()


# --- what comes back -------------------------------------------------------------------------------------------------


def test_shapes_types_ranges_and_balance():
    faces = synthetic_faces(75, seed=3)
    assert faces.images.shape == (75, 1, 48, 48)
    assert faces.images.dtype == torch.uint8
    assert faces.labels.shape == (75,)
    assert faces.labels.dtype == torch.int64
    assert faces.twin is None
    assert sorted(faces.labels.bincount(minlength=7).tolist()) == [10, 10, 11, 11, 11, 11, 11]
    assert faces.images.amin() < 40
    assert faces.images.amax() > 215


def test_one_face():
    assert synthetic_faces(1).images.shape == (1, 1, 48, 48)
    assert render(Face()).shape == (1, 48, 48)


def test_same_seed_same_bytes_other_seed_other_faces():
    digests = [digest(synthetic_faces(40, seed)) for seed in (0, 0, 1, 2)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_bytes_are_those_of_every_machine():
    known = "f93bf68350dc228a9933fda3d6055bc7e0f7125496fa86bf53626d7576d65782"
    assert digest(synthetic_faces(70, seed=7, intra=1.0)) == known


def test_labels_are_kept_and_mean_the_classes():
    """Without variation a face is the prototype of its label, but for the grain."""
    wanted = [6, 0, 5, 1, 4, 2, 3, 3]
    faces = synthetic_faces(8, labels=wanted, intra=0.0)
    assert faces.labels.tolist() == wanted
    for image, label in zip(faces.images[:, 0].numpy().astype(int), wanted, strict=True):
        difference = np.abs(image - render(prototype(CLASSES[label], inter=0.5))[0])
        assert difference.max() <= 2 * Face.grain * 255 + 1
    assert tuple(PROTOTYPES) == CLASSES


def test_no_image_is_constant_and_none_repeats():
    pixels = synthetic_faces(300, seed=11, intra=1.0, inter=1.0).images.flatten(1)
    assert pixels.double().std(1).min() > 4
    assert len(pixels.unique(dim=0)) == 300


def test_chunks_change_nothing():
    many = Face(**{f.name: np.linspace(f.default, f.metadata["high"] / 2, 45) for f in fields(Face)})
    whole = render(many, chunk=64)
    for chunk in (1, 7, 32):
        np.testing.assert_array_equal(render(many, chunk), whole)
    third = Face(**{f.name: getattr(many, f.name)[3] for f in fields(Face)})
    np.testing.assert_array_equal(render(third)[0], whole[3])


def test_memory_does_not_grow_with_the_number_of_faces():
    peaks = []
    for n in (32, 160):
        tracemalloc.start()
        render(Face(smile=np.linspace(-1, 1, n)), chunk=4)
        peaks.append(tracemalloc.get_traced_memory()[1] - n * 48 * 48)
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


# --- the dials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dials", [[(d, 0.5) for d in DIALS], [(0.5, d) for d in DIALS]], ids=["intra", "inter"])
def test_each_dial_makes_the_classes_harder_to_tell_apart(dials):
    ratios = [separation(intra, inter) for intra, inter in dials]
    assert all(a > 1.1 * b for a, b in itertools.pairwise(ratios)), ratios


def test_intra_0_is_one_face_a_class_and_inter_1_nearly_one_face_for_all():
    faces = synthetic_faces(70, intra=0.0, inter=0.0)
    for k in range(7):
        assert faces.images[faces.labels == k].double().std(0).max() < 5
    far, near = (
        np.stack([render(replace(prototype(c, inter), **CLEAN))[0] for c in CLASSES]).astype(float).std(0).mean()
        for inter in (0.0, 1.0)
    )
    assert far > 8 * near > 0


@pytest.mark.parametrize("intra", [0.0, 0.5, 1.0])
def test_intra_spreads_the_strength_of_an_expression(intra, monkeypatch):
    """Cheeks of happy faces: mean strength 1 - intra / 2 of the prototype; spread of two independent uniform draws."""
    drawn = []
    monkeypatch.setattr(synthetic, "render", lambda face: drawn.append(face) or np.zeros((4000, 48, 48), np.uint8))
    synthetic_faces(4000, 3, intra=intra, inter=0.5, labels=[CLASSES.index("happy")] * 4000)
    full = 1.4 - 1.35 * 0.5
    deviation = np.sqrt((full * intra) ** 2 / 12 + (2 * 0.45 * intra) ** 2 / 12)
    assert drawn[0].cheek.mean() == pytest.approx(full * (1 - intra / 2), abs=4 * deviation / np.sqrt(4000) + 1e-9)
    assert drawn[0].cheek.std() == pytest.approx(deviation, rel=0.05, abs=1e-9)


def test_class_means_differ_more_than_those_of_shuffled_labels():
    faces = synthetic_faces(350, seed=2, intra=0.25, inter=0.25)
    pixels = faces.images.flatten(1).double()

    def distances(labels):
        return torch.pdist(torch.stack([pixels[labels == k].mean(0) for k in range(7)]))

    shuffled = faces.labels[torch.randperm(350, generator=torch.Generator().manual_seed(0))]
    assert distances(faces.labels).min() > distances(shuffled).max()


# --- expressions and parameters show in the pixels -------------------------------------------------------------------


def test_mouths():
    """Rows 32 to 42 show the mouth: a black hole in surprise, white teeth in a smile, neither in a neutral face."""
    mouth = {c: clean(c)[32:43, 16:32] for c in CLASSES}
    assert (mouth["surprise"] < 25).sum() > 15
    assert (mouth["neutral"] < 25).sum() == 0
    assert (mouth["happy"] > 200).sum() > 10
    assert (mouth["neutral"] > 200).sum() == 0


def test_brows_sink_in_anger_and_rise_in_surprise():
    def height(emotion):  # mean row of the pixels that thicker brows darken
        brows = (clean(emotion, brow_w=0.02) - clean(emotion, brow_w=0.06)).clip(0)
        return (brows.sum(1) * np.arange(48)).sum() / brows.sum()

    assert height("surprise") < height("neutral") - 1 < height("angry") - 2


def test_wide_eyes_show_more_white():
    def white(emotion):
        return (clean(emotion, iris=0.06, gain=1.2, ambient=0.6, skin=0.3)[14:24, 10:38] > 130).sum()

    assert white("fear") > white("neutral") > white("disgust")


@settings(max_examples=20, deadline=None)
@given(
    emotion=st.sampled_from(CLASSES),
    moved=st.fixed_dictionaries({k: st.floats(-0.25, 0.25) for k in ("light_x", "yaw", "roll", "gaze_x", "skew")}),
)
def test_mirrored_parameters_give_the_mirrored_face(emotion, moved):
    left = clean(emotion, hairline=-0.9, **moved)
    right = clean(emotion, hairline=-0.9, **{k: -v for k, v in moved.items()})
    assert np.abs(left[FACE] - right[:, ::-1][FACE]).max() <= 1


@settings(max_examples=20, deadline=None)
@given(emotion=st.sampled_from(CLASSES), dx=st.integers(-5, 5), dy=st.integers(-5, 5))
def test_a_shift_by_whole_pixels_shifts_the_face(emotion, dx, dy):
    still, shifted = clean(emotion, shift_x=0.0, shift_y=0.0), clean(emotion, shift_x=dx / 24, shift_y=dy / 24)
    inner = (slice(6, 42), slice(6, 42))
    assert np.abs(np.roll(still, (dy, dx), (0, 1))[inner] - shifted[inner]).max() <= 1


@pytest.mark.parametrize("name", [f.name for f in fields(Face)])
def test_every_parameter_moves_pixels_and_is_clipped(name):
    """On a face that shows all parts, two values give two pictures; beyond the range nothing changes."""
    low, high = (next(f.metadata for f in fields(Face) if f.name == name)[end] for end in ("low", "high"))
    base = replace(Face(), open=0.6, smile=0.5, glasses=1.0, beard=0.3, cover=1.0, grain=0.1, age=0.6, brow=0.5)
    images = render(replace(base, **{name: np.array([low - 1e9, low, high, high + 1e9, 0.6 * low + 0.4 * high])}))
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])
    assert max((images[4] != images[k]).sum() for k in (1, 2)) > 4


# --- the data set ----------------------------------------------------------------------------------------------------


def test_synthetic_data():
    data = synthetic_data(60, 25, 30, seed=4)
    splits = (data.train, data.public, data.private)
    assert [len(s) for s in splits] == [60, 25, 30]
    assert data.name == "drawn faces"
    assert data.train.twin is None
    for split in splits[1:]:
        assert split.twin.dtype == torch.bool
        assert split.twin.shape == split.labels.shape
        assert not split.twin.any()
    assert len(torch.cat([s.images for s in splits]).flatten(1).unique(dim=0)) == 115
    content = b"".join(s.images.numpy().tobytes() for s in splits)
    content += bytes(torch.cat([s.labels for s in splits]).tolist())
    assert data.sha256 == hashlib.sha256(content + bytes([0] * 60 + [1] * 25 + [2] * 30)).hexdigest()
    assert synthetic_data(60, 25, 30, seed=4).sha256 == data.sha256
    assert synthetic_data(60, 25, 30, seed=5).sha256 != data.sha256


def test_splits_of_one_size_differ():
    data = synthetic_data(20, 20, 20)
    assert len({digest(split) for split in (data.train, data.public, data.private)}) == 3
    assert len(torch.cat([data.train.images, data.public.images, data.private.images]).flatten(1).unique(dim=0)) == 60


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n=0), r"n is 0, but the number of faces must be a whole number of at least 1\."),
        (dict(n=-3), "n is -3"),
        (dict(n=2.5), r"n is 2\.5"),
        (dict(n=3, intra=-0.1), r"intra is -0\.1, but this dial runs from 0 to 1\."),
        (dict(n=3, intra=float("nan")), "intra is nan"),
        (dict(n=3, inter=1.5), r"inter is 1\.5, but this dial runs from 0 to 1\."),
        (dict(n=3, labels=[0, 1]), "labels must be 3 whole numbers from 0 to 6, one for each face"),
        (dict(n=3, labels=[0, 1, 7]), "labels must be 3 whole numbers"),
        (dict(n=3, labels=[0, 1, -1]), "labels must be 3 whole numbers"),
        (dict(n=3, labels=[0.0, 1.0, 2.0]), "labels must be 3 whole numbers"),
        (dict(n=3, seed=-1), "seed is -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_faces(**arguments)


def test_bad_emotions_and_faces_are_named():
    with pytest.raises(ValueError, match="no emotion 'bored': choose one of angry, disgust, fear"):
        prototype("bored")
    with pytest.raises(ValueError, match=r"Face\.smile must be a finite number"):
        render(Face(smile=float("nan")))
    with pytest.raises(ValueError, match=r"Face\.\w+ must be a finite number"):
        render(Face(open=np.zeros((2, 2))))
    with pytest.raises(ValueError, match=r"arrays of one length, not of \[2, 3\]"):
        render(Face(open=np.zeros(2), smile=np.zeros(3)))
