"""Augmentation: the identity at strength 0, and what each dial does to pixels, read back from known images.

Draws depend on the generator and the batch's shape, not on the pixels. So a batch of ramps shows where each pixel was
sampled from, and the same seed does the same to any other batch.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from formulas import array
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mifad_lite import Augmentation, augment
from mifad_lite.augment import to_float

OFF = Augmentation.none()
STRONG = Augmentation(flip=0.5, rotate=20, scale=0.2, shift=0.1, brightness=0.3, contrast=0.5, erase=0.5, crop=40)
RAMP = torch.arange(48, dtype=torch.uint8) * 5
CENTER = 23.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, seed=5):
    return torch.randint(0, 256, (n, 1, 48, 48), generator=generator(seed), dtype=torch.uint8)


def scenes(n):
    """Smooth and all different: noise through a wide blur."""
    blurred = ndimage.gaussian_filter(noise(n).numpy().astype(float), (0, 0, 4, 4))
    low, high = blurred.min((2, 3), keepdims=True), blurred.max((2, 3), keepdims=True)
    return torch.from_numpy((255 * (blurred - low) / (high - low)).round().astype(np.uint8))


def sampled_from(strength, n, seed=0):
    """Affine maps from places (row, column) to the places they were sampled from: (n, 2, 2), (n, 2).

    Bilinear interpolation is exact on a ramp; least squares over the pixels that did not meet the border.
    """
    rows, cols = (
        array(augment(ramp.expand(n, 1, 48, 48), strength, generator(seed)))[:, 0] * 255 / 5
        for ramp in (RAMP[:, None], RAMP[None, :])
    )
    place = np.stack([*np.mgrid[:48, :48], np.ones((48, 48))], axis=2)
    matrices, offsets = [], []
    for row, col in zip(rows, cols, strict=True):
        inside = (row > 0.1) & (row < 46.9) & (col > 0.1) & (col < 46.9)
        solution, *_ = np.linalg.lstsq(place[inside], np.stack([row[inside], col[inside]], 1), rcond=None)
        np.testing.assert_allclose(place[inside] @ solution, np.stack([row[inside], col[inside]], 1), atol=1e-3)
        matrices.append(solution[:2].T)
        offsets.append(solution[2])
    return np.array(matrices), np.array(offsets)


def spread(values, largest):
    """Drawn evenly from [-largest, largest]: inside it, near both ends, around 0. For 200 draws."""
    assert np.abs(values).max() <= largest * (1 + 1e-3)
    assert values.max() > 0.9 * largest
    assert values.min() < -0.9 * largest
    assert abs(values.mean()) < 0.15 * largest
    assert values.std() == pytest.approx(largest / 3**0.5, rel=0.15)


# --- for every strength ----------------------------------------------------------------------------------------------


def test_strength_zero_is_exactly_the_image():
    images = torch.arange(256, dtype=torch.uint8).repeat(18).view(2, 1, 48, 48)  # every grey level
    assert all(getattr(OFF, f.name) == 0 for f in fields(OFF))
    out = augment(images, OFF, generator())
    assert out.dtype == torch.float32
    assert np.array_equal(out.numpy(), images.numpy().astype(np.float32) / np.float32(255))


unit = st.floats(0, 1)


@given(st.builds(Augmentation, unit, st.floats(0, 180), unit, unit, unit, unit, unit), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_output_is_float32_in_0_to_1_and_repeats_with_its_seed(strength, seed):
    images = noise(3, seed)
    before = images.clone()
    out = augment(images, strength, generator(seed))
    assert out.shape == (3, 1, 48, 48)
    assert out.dtype == torch.float32
    assert 0 <= out.min() <= out.max() <= 1
    assert torch.equal(out, augment(images, strength, generator(seed)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("dial", [f.name for f in fields(Augmentation)])
def test_every_dial_draws_anew_for_each_image_and_each_seed(dial):
    strength = replace(OFF, **{dial: 1.0 if dial == "erase" else getattr(STRONG, dial)})
    images = scenes(1).expand(40, -1, -1, -1)
    out = augment(images, strength, generator())
    assert len({image.numpy().tobytes() for image in out}) == (2 if dial == "flip" else 40)
    assert not torch.equal(out, augment(images, strength, generator(1)))


def test_images_stay_beside_their_labels():
    """The i-th image out looks most like the i-th image in, or its mirror image."""
    images = scenes(40)
    out = augment(images, Augmentation(), generator())
    flat = [array(x.flatten(1)) for x in (images.float(), images.flip(3).float(), out)]
    same, mirrored, changed = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in flat)
    likeness = np.maximum(changed @ same.T, changed @ mirrored.T)
    assert likeness.argmax(1).tolist() == list(range(40))


# --- flip ------------------------------------------------------------------------------------------------------------


def test_flip_mirrors_left_and_right_exactly():
    images = noise(4)
    out = augment(images, replace(OFF, flip=1), generator())
    assert np.array_equal(out.numpy(), images.numpy()[..., ::-1].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_flip_happens_with_its_probability(p):
    n = 2000
    images = scenes(1).expand(n, -1, -1, -1)
    flipped = (augment(images, replace(OFF, flip=p), generator()) != images / 255).any(3).any(2).any(1)
    assert abs(flipped.float().mean().item() - p) < 4 * (p * (1 - p) / n) ** 0.5


# --- geometry --------------------------------------------------------------------------------------------------------


def test_rotation_turns_about_the_middle():
    matrices, offsets = sampled_from(replace(OFF, rotate=20), 200)
    np.testing.assert_allclose(np.linalg.inv(matrices), matrices.transpose(0, 2, 1), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-4)
    np.testing.assert_allclose(matrices @ [CENTER, CENTER] + offsets, CENTER, atol=1e-3)
    spread(np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), 20)


def test_scale_zooms_about_the_middle():
    matrices, offsets = sampled_from(replace(OFF, scale=0.2), 200)
    zoom = matrices[:, 0, 0]
    np.testing.assert_allclose(matrices, zoom[:, None, None] * np.eye(2), atol=1e-4)
    np.testing.assert_allclose(matrices @ [CENTER, CENTER] + offsets, CENTER, atol=1e-3)
    spread(zoom - 1, 0.2)


def test_shift_moves_by_a_part_of_the_side():
    matrices, offsets = sampled_from(replace(OFF, shift=0.1), 200)
    np.testing.assert_allclose(matrices, np.broadcast_to(np.eye(2), (200, 2, 2)), atol=1e-4)
    for axis in (0, 1):
        spread(offsets[:, axis], 4.8)
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.2  # the two axes are drawn apart


def test_geometry_equals_scipy():
    """All three at once: bilinear, the border repeated, as `scipy.ndimage.affine_transform` samples it."""
    strength, images = replace(OFF, rotate=25, scale=0.2, shift=0.1), noise(8)
    out = array(augment(images, strength, generator()))
    for image, changed, matrix, offset in zip(images, out, *sampled_from(strength, 8), strict=True):
        expected = ndimage.affine_transform(image[0].numpy() / 255, matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(changed[0], expected, atol=2e-4)


def test_geometry_keeps_grey_levels():
    """No dark border comes in: a constant image stays constant."""
    levels = torch.arange(0, 256, 5, dtype=torch.uint8)[:, None, None, None]
    out = augment(levels.expand(-1, 1, 48, 48), replace(OFF, flip=0.5, rotate=40, scale=0.3, shift=0.3), generator())
    np.testing.assert_allclose(array(out), np.broadcast_to(array(levels) / 255, out.shape), atol=1e-6)


@pytest.mark.parametrize("side", [1, 24, 40, 47])
def test_crop_is_a_window_at_the_image_s_own_scale(side):
    """One pixel of the window is one pixel of the image, and its corner lies anywhere that keeps it inside."""
    n = 200
    down, right = (
        array(augment(ramp.expand(n, 1, 48, 48), replace(OFF, crop=side), generator()))[:, 0] * 255 / 5
        for ramp in (RAMP[:, None], RAMP[None, :])
    )
    assert down.shape == (n, side, side)
    place = np.arange(side)
    np.testing.assert_allclose(down - down[:, :1, :1], np.broadcast_to(place[:, None], down.shape), atol=1e-3)
    np.testing.assert_allclose(right - right[:, :1, :1], np.broadcast_to(place[None, :], right.shape), atol=1e-3)
    for corner in (down[:, 0, 0], right[:, 0, 0]):
        spread(corner - (48 - side) / 2, (48 - side) / 2)


def test_crop_of_the_whole_side_is_the_image():
    images = noise(4)
    out = array(augment(images, replace(OFF, crop=48), generator()))
    np.testing.assert_allclose(out, array(images) / 255, atol=1e-5)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="crop = 49 is larger than the image, 48 x 48 pixels"):
        augment(noise(1), replace(OFF, crop=49), generator())


# --- light -----------------------------------------------------------------------------------------------------------


def test_brightness_and_contrast_are_one_line_through_the_mean():
    """out - mean = gain (x - mean) + offset, read back by a straight line through grey levels that nothing clamps."""
    images = (scenes(200) // 4 + 96).contiguous()  # 96..159
    out = array(augment(images, replace(OFF, brightness=0.1, contrast=0.4), generator()))
    lines = []
    for x, y in zip(array(images) / 255, out, strict=True):
        gain, offset = np.polyfit(x.ravel() - x.mean(), y.ravel() - x.mean(), 1)
        np.testing.assert_allclose(y, x.mean() + gain * (x - x.mean()) + offset, atol=1e-5)
        lines.append((gain - 1, offset))
    gains, offsets = np.transpose(lines)
    spread(gains, 0.4)
    spread(offsets, 0.1)


# --- erasing ---------------------------------------------------------------------------------------------------------


def test_erase_fills_a_rectangle_of_at_most_a_third_with_noise():
    levels = torch.full((200, 1, 48, 48), 102, dtype=torch.uint8)
    out = array(augment(levels, replace(OFF, erase=1), generator()))[:, 0]
    holes = np.abs(out - 102 / 255) > 1e-6
    sides = []
    for image, hole in zip(out, holes, strict=True):
        rows, cols = hole.any(1), hole.any(0)
        assert hole[np.ix_(rows, cols)].mean() > 0.9  # noise may hit the grey level, hardly ever
        for line in (rows, cols):
            assert np.ptp(np.flatnonzero(line)) + 1 == line.sum()  # without a gap
        sides.append((rows.sum(), cols.sum()))
        assert image[hole].std() > 0.15
    assert np.min(sides) >= 4
    assert np.max(sides) <= 16
    assert (np.std(sides, axis=0) > 2).all()
    assert holes.any(0).mean() > 0.9  # nearly every place is hit sometimes


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_erase_happens_with_its_probability(p):
    n = 2000
    levels = torch.full((n, 1, 48, 48), 102, dtype=torch.uint8)
    erased = (augment(levels, replace(OFF, erase=p), generator()) != levels / 255).flatten(1).any(1)
    assert abs(erased.float().mean().item() - p) < 4 * (p * (1 - p) / n) ** 0.5


# --- other images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [0, 24])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (60, 30)])
def test_an_image_that_is_not_square_is_rotated_not_sheared(height, width, crop):
    """From ramps we read where each pixel was sampled from; a rotation keeps lengths and right angles."""
    strength = replace(OFF, rotate=25, crop=crop)
    ramps = torch.arange(height)[:, None] * 4, torch.arange(width)[None, :] * 4
    rows, cols = (
        array(augment(ramp.to(torch.uint8).expand(9, 1, height, width), strength, generator()))[:, 0] * 255 / 4
        for ramp in ramps
    )
    place = np.stack([*np.mgrid[: rows.shape[1], : rows.shape[2]], np.ones(rows.shape[1:])], axis=2)
    angles = []
    for row, col in zip(rows, cols, strict=True):
        inside = (row > 0.1) & (row < height - 1.1) & (col > 0.1) & (col < width - 1.1)
        solution, *_ = np.linalg.lstsq(place[inside], np.stack([row[inside], col[inside]], 1), rcond=None)
        np.testing.assert_allclose(solution[:2] @ solution[:2].T, np.eye(2), atol=1e-3)
        angles.append(np.degrees(np.arctan2(solution[0, 1], solution[0, 0])))
    draws = torch.rand(9, generator=generator()).numpy() * 2 - 1
    np.testing.assert_allclose(np.abs(angles), 25 * np.abs(draws), atol=0.1)


@pytest.mark.parametrize(("strength", "side"), [(OFF, 48), (Augmentation(), 48), (STRONG, 40)])
def test_no_images_give_none(strength, side):
    out = augment(noise(1)[:0], strength, generator())
    assert out.shape == (0, 1, side, side)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("call", [to_float, lambda x: augment(x, OFF), lambda x: augment(x, Augmentation())])
def test_floats_are_not_divided_again(call):
    with pytest.raises(ValueError, match="torch.float32 images are not divided by 255 again: give uint8"):
        call(noise(2).float() / 255)
