"""Any picture becomes one gray 48 x 48 face or one clear sentence; the guess is a softmax and calls itself a guess."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from mifad_lite import CLASSES, PRESETS, MIFADNet
from mifad_lite.predict import ImageError, format_prediction, predict, read_face

RAMP = np.add.outer(np.arange(48) * 3, np.arange(48) * 2).astype(np.uint8)  # smooth, and no symmetry: 0 .. 235


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8))


def saved(image, path, **options):
    image.save(path, **options)
    return path


def pixels(path):
    face = read_face(path)
    assert face.shape == (1, 1, 48, 48)
    assert face.dtype == torch.uint8
    return face[0, 0].numpy()


def as_mode(mode):
    """RAMP as a picture of that mode, without asking Pillow to convert 16 bits or floats."""
    if mode == "I;16":
        return Image.fromarray(RAMP.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(RAMP.astype(np.float32) / 255)
    if mode == "LAB":
        neutral = Image.new("L", (48, 48), 128)
        return Image.merge("LAB", [Image.fromarray(RAMP), neutral, neutral])
    gray = Image.fromarray(RAMP)
    return gray.convert("RGB").quantize(256, dither=Image.Dither.NONE) if mode == "P" else gray.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [
        ("L", "face.png", 0),
        ("L", "face.bmp", 0),
        ("RGB", "face.png", 0),
        ("RGBA", "face.png", 0),
        ("LA", "face.png", 0),
        ("I;16", "face.png", 0),
        ("I;16", "face.tiff", 0),
        ("I", "face.tiff", 0),
        ("F", "face.tiff", 0),
        ("LAB", "face.tiff", 0),
        ("P", "face.png", 4),
        ("P", "face.gif", 4),
        ("CMYK", "face.tiff", 1),
        ("CMYK", "face.jpg", 8),
        ("YCbCr", "face.jpg", 8),
        ("L", "face.jpg", 8),
        ("RGB", "face.webp", 12),
    ],
)
def test_every_mode_gives_the_same_gray_face(mode, name, tolerance, tmp_path):
    found = pixels(saved(as_mode(mode), tmp_path / name))
    assert abs(found.astype(int) - RAMP).max() <= tolerance


def test_one_bit_pictures_are_black_and_white(tmp_path):
    found = pixels(saved(Image.fromarray(RAMP > 100), tmp_path / "face.png"))
    assert (found == np.where(RAMP > 100, 255, 0)).all()


def test_colours_weigh_as_the_eye_does(tmp_path):
    for colour, luma in (((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)):  # ITU-R 601: .299, .587, .114
        found = pixels(saved(Image.new("RGB", (60, 60), colour), tmp_path / "colour.png"))
        assert abs(found.astype(int) - luma).max() <= 1


def test_what_is_transparent_turns_white(tmp_path):
    seen = Image.fromarray(np.where(RAMP < 100, 0, 255).astype(np.uint8))
    black = Image.new("RGB", (48, 48))
    black.putalpha(seen)  # black everywhere, transparent where the ramp is below 100
    found = pixels(saved(black, tmp_path / "rgba.png"))
    assert (found == np.where(RAMP < 100, 255, 0)).all()

    palette = Image.fromarray((RAMP >= 100).astype(np.uint8))
    palette.putpalette([0, 0, 0, 90, 90, 90])
    found = pixels(saved(palette, tmp_path / "palette.png", transparency=0))  # colour 0 is transparent
    assert (found == np.where(RAMP < 100, 255, 90)).all()


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [  # how EXIF says that the upright picture lies in the file
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.T),
        (6, np.rot90(RAMP)),
        (7, RAMP[::-1, ::-1].T),
        (8, np.rot90(RAMP, -1)),
    ],
)
def test_exif_orientation_is_undone(orientation, stored, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "turned.png", exif=exif)
    assert (pixels(path) == RAMP).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_central_square_is_kept(axis, tmp_path):
    wide = np.concatenate([np.zeros_like(RAMP), RAMP, np.full_like(RAMP, 255)], axis=axis)
    assert (pixels(saved(Image.fromarray(wide), tmp_path / "wide.png")) == RAMP).all()


def test_shrinking_averages(tmp_path):
    board = np.indices((481, 481)).sum(0) % 2 * 255  # picking single pixels would give 0 and 255
    found = pixels(saved(Image.fromarray(board.astype(np.uint8)), tmp_path / "board.png"))
    assert abs(found.astype(float) - 127.5).max() < 6
    blocks = np.kron(RAMP, np.ones((10, 10), np.uint8))
    found = pixels(saved(Image.fromarray(blocks), tmp_path / "large.png"))
    assert abs(found.astype(int) - RAMP)[2:-2, 2:-2].max() <= 1  # smooth inside, so every average is the middle


def test_a_single_pixel_is_stretched(tmp_path):
    assert (pixels(saved(Image.new("L", (1, 7), 93), tmp_path / "dot.png")) == 93).all()


def test_the_first_frame_counts(tmp_path):
    frames = [Image.new("L", (48, 48), value) for value in (40, 200)]
    assert (pixels(saved(frames[0], tmp_path / "two.gif", save_all=True, append_images=frames[1:])) == 40).all()


def failure(path):
    with pytest.raises(ImageError) as caught:
        read_face(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_bad_files_get_one_sentence(tmp_path):
    assert "no such file" in failure(tmp_path / "none.png")
    assert "folder" in failure(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in failure(tmp_path / "empty.png")
    (tmp_path / "notes.png").write_text("Dear diary,\n")
    assert "not a picture" in failure(tmp_path / "notes.png")
    whole = saved(noise(200, 200), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in failure(tmp_path / "half.jpg")


def huge_png(width, height):
    """A PNG of a few bytes whose header claims width x height pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_a_program_in_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow would hand it to Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("it was run"))
    path = tmp_path / "face.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\nshowpage\n%%EOF\n")
    assert "a program in PostScript" in failure(path)


@pytest.mark.parametrize("side", [10_000, 100_000])  # Pillow itself warns of the first and refuses the second
def test_a_bomb_is_not_decoded(side, tmp_path):
    (tmp_path / "bomb.png").write_bytes(huge_png(side, side))
    assert f"more than {Image.MAX_IMAGE_PIXELS:,} pixels" in failure(tmp_path / "bomb.png")


def test_the_limit_is_pillows_own(tmp_path, monkeypatch):
    path = saved(Image.fromarray(RAMP), tmp_path / "face.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 48)
    assert (pixels(path) == RAMP).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 48 - 1)
    assert "more than 2,303 pixels" in failure(path)


def encoded(form, **options):
    buffer = io.BytesIO()
    noise(40, 30).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


SEEDS = [encoded("PNG"), encoded("JPEG", exif=Image.Exif()), encoded("GIF"), encoded("TIFF"), encoded("BMP")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    st.integers(0, 2**16),
)
def test_damaged_pictures_never_fail_otherwise(tmp_path, seed, changes, cut):
    raw = bytearray(seed)
    for where, value in changes:
        raw[where % min(len(raw), 400)] = value  # headers, mostly
    path = tmp_path / "fuzzed"
    path.write_bytes(raw[: max(1, cut % (2 * len(raw)))])
    try:
        assert read_face(path).shape == (1, 1, 48, 48)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_pillows_remarks_are_not_passed_on(tmp_path):
    path = saved(Image.fromarray(RAMP), tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        with Image.open(path) as image:
            image.getexif()
        assert remarks  # Pillow remarks on it
        remarks.clear()
        read_face(path)
    assert not remarks


def test_predict_is_the_softmax_of_the_network(tmp_path):
    torch.manual_seed(3)
    net = MIFADNet(PRESETS["tiny"])
    found = predict(net, saved(Image.fromarray(RAMP), tmp_path / "face.png"))
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(RAMP / np.float32(255))[None, None])[0].double().numpy()
    wanted = np.exp(logits - logits.max())
    assert tuple(found) == CLASSES
    assert sum(found.values()) == pytest.approx(1)
    np.testing.assert_allclose(list(found.values()), wanted / wanted.sum(), rtol=1e-4)
    assert max(wanted) / min(wanted) > 1.05  # no uniform answer that any order would pass


def test_the_terminal_gets_seven_lines_and_a_caveat():
    probabilities = (0.02, 0.0, 0.0056, 0.8731, 0.1, 0.0012, 0.0001)
    text = format_prediction(dict(zip(CLASSES, probabilities, strict=True)), width=10)
    assert text.splitlines() == [
        "happy     87.31 %  #########",
        "sad       10.00 %  #",
        "angry      2.00 %",
        "fear       0.56 %",
        "surprise   0.12 %",
        "neutral    0.01 %",
        "disgust    0.00 %",
        "A guess about a face, not a reading of a feeling.",
    ]
    assert format_prediction(dict.fromkeys(CLASSES, 1.0)).startswith("angry    100.00 %  " + 40 * "#")
