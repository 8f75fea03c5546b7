"""FER2013 reading: every form round-trips, every kind of damage is named, the cache is used, healed and optional."""

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import EpsImagePlugin, Image

from mifad_lite import data
from mifad_lite.data import CLASSES, SPLIT_COUNTS, DataError, FaceSet, flaws, load_fer2013
from mifad_lite.synthetic import synthetic_faces

pytestmark = pytest.mark.filterwarnings("error")  # a file left open is one, too
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\nshowpage\n%%EOF\n"
USAGES = ("Training", "PublicTest", "PrivateTest")
FORMS = [f"{stem}.csv{end}" for stem in ("fer2013", "icml_face_data") for end in ("", ".gz", ".zip", ".xz")]
FORMS.append("images")
fuzz = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIFAD_CACHE", str(tmp_path / "cache"))


def faces(n=6, seed=0):
    """Rows (label, image, usage): all usages occur, in mixed order, and row 0's image stands in every split."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 48, 48), dtype=np.uint8)
    images[[1, 2]] = images[0]
    return [(i % 7, image, i % 3) for i, image in enumerate(images)]


def csv_text(rows, stem="fer2013"):
    """The file as Kaggle has it: `icml_face_data.csv` has another order of columns, and spaces before their names."""
    lines = ["emotion,pixels,Usage" if stem == "fer2013" else "emotion, Usage, pixels"]
    for label, image, usage in rows:
        fields = [str(label), " ".join(map(str, image.ravel())), USAGES[usage]]
        lines.append(",".join(fields if stem == "fer2013" else [fields[0], fields[2], fields[1]]))
    return "\n".join(lines) + "\n"


def packed(text, form):
    """`text` in the container that `form` names."""
    raw = text.encode()
    if form.endswith(".zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._" + form[:-4], b"\0")
            archive.writestr("folder/" + form[:-4], raw)
        return buffer.getvalue()
    return {"gz": gzip.compress, "xz": lzma.compress}.get(form.rsplit(".")[-1], bytes)(raw)


def write(rows, folder, form):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / form
    if form != "images":
        path.write_bytes(packed(csv_text(rows, form.split(".")[0]), form))
        return path
    for number, (label, image, usage) in enumerate(rows):  # named as in the copy that circulates
        place = path / ("test" if usage else "train") / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{USAGES[usage]}_{number}.png")
    return path


def same(have, rows):
    """Compares with the rows, by plain loops."""
    for usage, split in enumerate((have.train, have.public, have.private)):
        wanted = [(label, image) for label, image, where in rows if where == usage]
        assert len(split) == len(wanted)
        assert split.images.shape == (len(wanted), 1, 48, 48)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == [label for label, _ in wanted]
        for image, (_, pixels) in zip(split.images, wanted, strict=True):
            assert np.array_equal(image[0].numpy(), pixels)
        if usage:
            train = [pixels for _, pixels, where in rows if where == 0]
            twins = [any(np.array_equal(pixels, other) for other in train) for _, pixels in wanted]
            assert split.twin.dtype == torch.bool
            assert split.twin.tolist() == twins
        else:
            assert split.twin is None
    ordered = sorted(rows, key=lambda row: row[2])
    content = b"".join(image.tobytes() for _, image, _ in ordered)
    content += bytes(label for label, _, _ in ordered) + bytes(usage for _, _, usage in ordered)
    assert have.sha256 == hashlib.sha256(content).hexdigest()
    assert have.sha256 == data.content_sha256(have.train, have.public, have.private)


def no_reading(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the source was read again")

    monkeypatch.setattr(pd, "read_csv", fail)
    monkeypatch.setattr(Image, "open", fail)


def error_of(path):
    """The message of the DataError, which must be one sentence that starts with the file."""
    with pytest.raises(DataError) as caught:
        load_fer2013(path, strict=False)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- forms ---


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pool=hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(48), st.just(48))),
    picks=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6),
)
def test_every_form_gives_back_the_images(tmp_path_factory, form, pool, picks):
    rows = [(label, pool[i % len(pool)], usage) for label, i, usage in picks]
    path = write(rows, tmp_path_factory.mktemp("form"), form)
    for _ in ("read", "cached"):
        same(load_fer2013(path, strict=False), rows)


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "\ufeff" + text,
    lambda text: text.rstrip("\n"),
    lambda text: text + "\n\n  \n",
    lambda text: text.replace("\n", "\n\n"),
    lambda text: text.replace(" ", "  "),
    lambda text: text.replace(" ", "\t"),
    lambda text: text.replace("emotion,pixels", "Emotion, PIXELS"),
    lambda text: "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines()),
    lambda text: "\n".join(f"{i}, x, {line}" for i, line in enumerate(text.splitlines())),
])  # fmt: skip
def test_harmless_differences_are_accepted(tmp_path, change):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(change(csv_text(faces())).encode())
    same(load_fer2013(path, strict=False), faces())


@pytest.mark.parametrize("form", FORMS[:-1])
def test_a_folder_that_holds_the_file(tmp_path, form):
    write(faces(), tmp_path / "copy", form)
    same(load_fer2013(tmp_path / "copy", strict=False), faces())


@pytest.mark.parametrize(("public", "private"), [("public", "private"), ("validation", "test"), ("val", "Test")])
def test_folders_alone_tell_the_split(tmp_path, public, private):
    for number, (label, image, usage) in enumerate(faces(14)):
        place = tmp_path / "copy" / "images" / ("train", public, private)[usage] / CLASSES[label].title()
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")  # 2 comes before 10
    (tmp_path / "copy" / "notes.txt").write_text("not an image")
    (place / "._9.png").write_bytes(b"\0")
    same(load_fer2013(tmp_path / "copy", strict=False), faces(14))


def test_colour_and_jpeg_images_become_grey(tmp_path):
    place = tmp_path / "train" / "happy"
    place.mkdir(parents=True)
    Image.new("RGB", (48, 48), (200, 200, 200)).save(place / "1.jpg", quality=95)
    train = load_fer2013(tmp_path, strict=False).train
    assert train.labels.tolist() == [CLASSES.index("happy")]
    assert train.images.unique().tolist() == [200]


# --- damage ---

GOOD = " ".join(["7"] * 2304)
BAD_ROWS = {
    "too few pixels": (f"3,{GOOD[2:]},Training", "2303 pixels"),
    "too many pixels": (f"3,{GOOD} 7,Training", "2305 pixels"),
    "no pixels": ("3,,Training", "0 pixels"),
    "letters": (f"3,seven{GOOD[1:]},Training", "'seven'"),
    "a fraction": (f"3,{GOOD[:-1]}7.5,Training", "'7.5'"),
    "256": (f"3,{GOOD[:-1]}256,Training", "'256'"),
    "negative": (f"3,{GOOD[:-1]}-1,Training", "'-1'"),
    "a huge number": (f"3,{GOOD[:-1]}{2**64 + 7},Training", f"'{2**64 + 7}'"),
    "other digits": (f"3,{GOOD[:-1]}٧,Training", "'٧'"),
    "label 7": (f"7,{GOOD},Training", "emotion is '7'"),
    "no label": (f",{GOOD},Training", "emotion is ''"),
    "a label in words": (f"happy,{GOOD},Training", "emotion is 'happy'"),
    "unknown usage": (f"3,{GOOD},Test", "usage is 'Test'"),
    "no usage": (f"3,{GOOD},", "usage is ''"),
    "a missing column": (f"3,{GOOD}", "2 columns, not 3"),
    "an extra column": (f"3,{GOOD},Training,1", "4 columns, not 3"),
    "an open quote": (f'"3,{GOOD}, "Train', "usage is 'Train'"),
    "a zero byte": (f"3,{GOOD[:99]}\0{GOOD[100:]},Training", "pixel"),
}


@pytest.mark.parametrize("form", ["fer2013.csv", "fer2013.csv.xz"])
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, monkeypatch, kind, form):
    bad, reason = BAD_ROWS[kind]
    lines = csv_text(faces(9)).splitlines()
    lines[4:4] = ["", bad]  # so line 5 is empty and line 6 is bad
    path = tmp_path / form
    path.write_bytes(packed("\n".join(lines) + "\n", form))
    tables = data._tables
    for size in (2048, 2):  # in the middle of a table, and at the edge of one
        monkeypatch.setattr(data, "_tables", lambda path, size=size: tables(path, size))
        message = error_of(path)
        assert message.startswith(f"{path}, row 6: ")
        assert reason in message
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "the file is empty"),
    (b"\n\n", "the file is empty"),
    (b"emotion,pixels,Usage\n", "no rows"),
    (b"emotion,pixels\n0,1 2 3\n", "row 1: this is not FER2013, as 'emotion,pixels' names no column 'usage'"),
    (b"\n<!DOCTYPE html>\n<html>", "row 2: this is not FER2013, as '<!DOCTYPE html>' names no column 'emotion'"),
    (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "row 1: this is not FER2013"),
    (gzip.compress(b"", mtime=0), "the file is empty"),
    (packed("x", "notes.txt.zip"), "the archive holds no CSV file"),
    (packed("a,b\n1,2\n", "other.csv.zip"), "row 1: this is not FER2013"),
])  # fmt: skip
def test_a_wrong_file_is_named(tmp_path, content, reason):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    assert reason in error_of(path)


@pytest.mark.parametrize(("other", "name"), [("a.csv", "icml_face_data.csv"), ("__MACOSX/._mine.csv", "mine.csv")])
def test_a_zip_with_several_tables_gives_the_right_one(tmp_path, other, name):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(other, "a,b\n")
        archive.writestr(name, csv_text(faces(), "icml_face_data"))
    same(load_fer2013(path, strict=False), faces())


def test_a_cut_plain_file_names_its_last_row(tmp_path):
    path = tmp_path / "fer2013.csv"
    text = csv_text(faces())
    for cut in (20, 3000, 9000):
        path.write_text(text[:-cut])
        row = text[:-cut].count("\n") + 1
        message = error_of(path)
        assert f", row {row}: " in message
        assert "cut short" in message


@pytest.mark.parametrize("form", ["fer2013.csv.gz", "fer2013.csv.zip", "fer2013.csv.xz"])
@fuzz
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_cut_archive_never_loads(tmp_path, form, part):
    path = tmp_path / form
    whole = packed(csv_text(faces(4)), form)
    path.write_bytes(whole[: int(part * len(whole))])
    error_of(path)


def test_a_cut_archive_names_the_first_row_that_is_lost(tmp_path):
    path = tmp_path / "fer2013.csv.gz"
    text = csv_text(faces(40))
    whole = gzip.compress(text.encode())
    path.write_bytes(whole[: len(whole) // 2])
    message = error_of(path)
    kept = zlib.decompressobj(wbits=31).decompress(path.read_bytes())
    row = kept.count(b"\n") + 1
    assert 10 < row < 40
    assert f", row {row}: the file is cut short or damaged here" in message


@pytest.mark.parametrize("form", FORMS[:4])
@fuzz
@given(place=st.floats(0, 1, exclude_max=True), new=st.binary(min_size=1, max_size=4), insert=st.booleans())
def test_damage_is_harmless_or_a_data_error(tmp_path, form, place, new, insert):
    path = tmp_path / form
    whole = packed(csv_text(faces(4)), form)
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + new + whole[at if insert else at + len(new) :])
    try:
        have = load_fer2013(path, strict=False)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        if form != "fer2013.csv":  # a plain file has no checksum; the others do
            same(have, faces(4))


@fuzz
@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_data_error(tmp_path, content):
    path = tmp_path / "fer2013.csv"
    for start in (b"", b"emotion,pixels,Usage\n", b"PK\x03\x04", b"\x1f\x8b\x08", b"\xfd7zXZ\0"):
        path.write_bytes(start + content)
        error_of(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"emotion,pixels,Usage\n" + b"\0" * 10**6, "row 2: the row is longer than 20,000 signs."),
        (b"\n" * 10**6, "more than 143,548 lines"),
        (b"\0" * 10**6, "row 1: the row is longer than 20,000 signs."),
    ],
)
@pytest.mark.parametrize("form", ["fer2013.csv", "fer2013.csv.gz", "fer2013.csv.xz"])
def test_a_bomb_is_read_no_further_than_faces_go(tmp_path, monkeypatch, form, content, reason):
    """Four times as many lines as FER2013 has, each up to twice as long as a face: the rest is not unpacked."""
    path = tmp_path / form
    path.write_bytes(packed(content.decode(), form))
    assert reason in error_of(path)


def test_more_images_than_fer2013_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IMAGES", 5)
    path = write(faces(6), tmp_path, "fer2013.csv")
    assert "row 7: FER2013 has 5 images, and the file has more" in error_of(path)
    monkeypatch.setattr(data, "IMAGES", 6)
    same(load_fer2013(path, strict=False), faces(6))


def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in error_of(tmp_path / "pipe")


def test_an_image_of_another_size_is_not_unpacked(tmp_path, monkeypatch):
    path = write(faces(6), tmp_path, "images")
    Image.new("L", (3000, 3000)).save(next(path.rglob("*_3.png")))
    unpacked = []
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: unpacked.append(self.size) or self)
    assert "3000 x 3000 pixels" in error_of(path)
    assert set(unpacked) <= {(48, 48)}


def test_a_program_in_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow hands such a file to Ghostscript, whatever its name."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("it was run"))
    path = write(faces(6), tmp_path, "images")
    next(path.rglob("*_3.png")).write_bytes(POSTSCRIPT)
    assert "the image cannot be read" in error_of(path)


def test_control_c_while_the_cache_is_written_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(file, array):
        file.write(b"half")
        raise KeyboardInterrupt

    path = write(faces(6), tmp_path, "fer2013.csv")
    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_fer2013(path, strict=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_bad_images_are_named(tmp_path):
    place = tmp_path / "copy" / "train" / "happy"
    place.mkdir(parents=True)
    image = place / "17.png"
    assert "the folder holds no" in error_of(tmp_path / "copy")

    Image.new("L", (48, 49)).save(image)
    assert "48 x 49 pixels, not 48 x 48" in message_for(tmp_path / "copy", image)
    Image.effect_noise((48, 48), 50).save(image)
    whole = image.read_bytes()
    for broken in (b"", b"no image", whole[:60], whole[: len(whole) // 2]):
        image.write_bytes(broken)
        assert "the image cannot be read" in message_for(tmp_path / "copy", image)
    image.write_bytes(whole)
    assert len(load_fer2013(tmp_path / "copy", strict=False).train) == 1

    place.rename(place.with_name("bored"))
    assert "'bored', not one of angry" in message_for(tmp_path / "copy", place.with_name("bored") / image.name)
    place.with_name("bored").rename(place)
    place.parent.rename(tmp_path / "copy" / "part1")
    assert "the image's split" in message_for(tmp_path / "copy", tmp_path / "copy" / "part1" / "happy" / image.name)


def message_for(folder, image):
    with pytest.raises(DataError) as caught:
        load_fer2013(folder, strict=False)
    assert str(caught.value).startswith(f"{image}: ")
    return str(caught.value)


# --- counts ---


def test_published_counts_add_up():
    assert [sum(counts) for counts in SPLIT_COUNTS.values()] == [28709, 3589, 3589]


def test_strict_compares_the_counts(tmp_path, monkeypatch):
    rows = [(label, image, usage) for usage in range(3) for label, (_, image, _) in enumerate(faces(7))]
    path = write(rows, tmp_path, "fer2013.csv")
    with pytest.raises(DataError, match="train split has 1 images of class angry, not the published 3995; strict=F"):
        load_fer2013(path)
    assert load_fer2013(path, strict=False).name == "FER2013 subset"
    monkeypatch.setattr(data, "SPLIT_COUNTS", {split: (1,) * 7 for split in SPLIT_COUNTS})
    assert load_fer2013(path).name == "FER2013"
    for lost, (label, _, usage) in enumerate(rows):
        path = write(rows[:lost] + rows[lost + 1 :], tmp_path, "fer2013.csv.gz")
        split = list(SPLIT_COUNTS)[usage]
        with pytest.raises(DataError, match=f"the {split} split has 0 images of class {CLASSES[label]}, not"):
            load_fer2013(path)


# --- cache ---


@pytest.mark.parametrize("form", ["icml_face_data.csv.gz", "images"])
def test_the_second_load_reads_the_cache_and_maps_it(tmp_path, monkeypatch, form):
    path = write(faces(), tmp_path, form)
    first = load_fer2013(path, strict=False)
    no_reading(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in (path, form, str(tmp_path / "." / form)):
        same(load_fer2013(name, strict=False), faces())
    have = load_fer2013(path, strict=False)
    assert have.sha256 == first.sha256
    have.train.images[:] = 0  # writes go to memory, not to the cache
    same(load_fer2013(path, strict=False), faces())
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".npy"]


@pytest.mark.parametrize("form", ["fer2013.csv", "images"])
def test_a_changed_source_is_read_again(tmp_path, form):
    path = write(faces(), tmp_path, form)
    same(load_fer2013(path, strict=False), faces())
    upside_down = [(label, image[::-1], usage) for label, image, usage in faces()]
    write(upside_down, tmp_path, form)  # as a CSV file it has the same size
    os.utime(path if form != "images" else next(path.rglob("*.png")), (1, 1))
    same(load_fer2013(path, strict=False), upside_down)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_two_copies_have_two_caches(tmp_path, monkeypatch):
    one, two = write(faces(), tmp_path / "1", "fer2013.csv"), write(faces(seed=1), tmp_path / "2", "fer2013.csv")
    for path in (one, two):
        load_fer2013(path, strict=False)
    no_reading(monkeypatch)
    same(load_fer2013(one, strict=False), faces())
    same(load_fer2013(two, strict=False), faces(seed=1))


@fuzz
@given(place=st.floats(0, 1, exclude_max=True), new=st.binary(max_size=3), cut=st.booleans())
def test_a_damaged_cache_is_healed(tmp_path, place, new, cut):
    path = write(faces(), tmp_path, "fer2013.csv")
    load_fer2013(path, strict=False)
    (cache,) = (tmp_path / "cache").iterdir()
    whole = cache.read_bytes()
    at = int(place * len(whole))
    cache.write_bytes(whole[:at] + new + (b"" if cut else whole[at + len(new) :]))
    same(load_fer2013(path, strict=False), faces())
    with pytest.MonkeyPatch.context() as monkeypatch:
        no_reading(monkeypatch)
        same(load_fer2013(path, strict=False), faces())


def test_a_cache_of_another_kind_is_healed(tmp_path):
    path = write(faces(), tmp_path, "fer2013.csv")
    load_fer2013(path, strict=False)
    (cache,) = (tmp_path / "cache").iterdir()
    for array in (np.zeros((3, 4)), np.zeros(0, np.uint8), np.array("text"), np.array([{}])):
        np.save(cache, array, allow_pickle=True)
        same(load_fer2013(path, strict=False), faces())


def test_without_a_cache_folder_there_is_one_warning(tmp_path, monkeypatch):
    path = write(faces(), tmp_path, "fer2013.csv")
    monkeypatch.setenv("MIFAD_CACHE", str(path / "below a file"))
    with pytest.warns(UserWarning, match="FER2013 is not cached") as caught:
        same(load_fer2013(path, strict=False), faces())
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write(faces(), tmp_path, "fer2013.csv")

    def full(file, array):
        file.write(array[:100].tobytes())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        same(load_fer2013(path, strict=False), faces())
    assert list((tmp_path / "cache").iterdir()) == []


# --- places ---


def test_argument_then_variable_then_places_then_cache(tmp_path, monkeypatch):
    """Four copies with 1 to 4 rows; each is found once those before it are gone."""
    home = tmp_path / "a" / "b" / "book"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.delenv("MIFAD_FER2013", raising=False)
    with pytest.raises(FileNotFoundError, match="FER2013 was not found: download .*Kaggle.*synthetic_faces"):
        load_fer2013()

    def found(path=None):
        return len(load_fer2013(path, strict=False).train)

    def rows(n):
        return [(3, image, 0) for _, image, _ in faces(n + 2)[:n]]

    write(rows(9), tmp_path / "shared" / "data", "fer2013.csv")  # three folders up: too far
    write(rows(6), tmp_path / "cache", "fer2013.csv.gz")
    assert found() == 6
    write(rows(5), tmp_path / "a" / "shared" / "data", "icml_face_data.csv.xz")
    assert found() == 5
    write(rows(4), home / "data", "icml_face_data.csv")
    assert found() == 4
    write(rows(3), home / "data", "fer2013.csv.zip")
    assert found() == 3
    variable = write(rows(2), tmp_path / "elsewhere", "fer2013.csv")
    monkeypatch.setenv("MIFAD_FER2013", str(variable))
    assert found() == 2
    assert found(write(rows(1), tmp_path, "icml_face_data.csv")) == 1


def test_a_folder_of_images_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("MIFAD_FER2013", raising=False)
    monkeypatch.chdir(tmp_path)
    write(faces(), tmp_path, "images").rename(tmp_path / "data")
    same(load_fer2013(strict=False), faces())


def test_a_missing_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MIFAD_FER2013", str(tmp_path / "gone.csv"))
    with pytest.raises(FileNotFoundError, match="gone.csv, to which MIFAD_FER2013 points"):
        load_fer2013()
    with pytest.raises(FileNotFoundError, match="no file or folder .*other.csv"):
        load_fer2013(tmp_path / "other.csv")


@pytest.mark.parametrize("index", [slice(1, 4), [4, 0, 0], torch.tensor([2, 1]), torch.arange(5) % 2 == 0])
def test_subset(index):
    twin = torch.tensor([True, False, False, True, True])
    whole = FaceSet(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 48, 48), torch.arange(5), twin)
    part = whole.subset(index)
    numbers = np.arange(5)[index]
    assert len(part) == len(numbers)
    assert part.labels.tolist() == part.images[:, 0, 0, 0].tolist() == numbers.tolist()
    assert part.twin.tolist() == [bool(twin[i]) for i in numbers]
    assert FaceSet(whole.images, whole.labels).subset(index).twin is None


# --- the real data ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            path = data.locate()
        except FileNotFoundError as error:
            pytest.skip(str(error))
        monkeypatch.setenv("MIFAD_CACHE", str(tmp_path_factory.mktemp("real")))
        first = load_fer2013(path)
        no_reading(monkeypatch)
        return first, load_fer2013(path)


def test_real_counts_and_twins(real):
    for have in real:
        assert have.name == "FER2013"
        assert (len(have.train), len(have.public), len(have.private)) == (28709, 3589, 3589)
        assert int(have.public.twin.sum()) == 280
        assert int(have.private.twin.sum()) == 288
        assert have.sha256 == data.content_sha256(have.train, have.public, have.private)
    assert real[0].sha256 == real[1].sha256
    for split in ("train", "public", "private"):
        assert torch.equal(getattr(real[0], split).images, getattr(real[1], split).images)


def test_real_repeats(real):
    """Known of this data set: 1,855 exact repeats, 59 groups of repeats with conflicting labels, 12 constant images."""
    labels = defaultdict(list)
    for split in (real[0].train, real[0].public, real[0].private):
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True):
            labels[image.tobytes()].append(label)
    assert sum(map(len, labels.values())) == 35887
    assert 35887 - len(labels) == 1855
    assert sum(len(set(group)) > 1 for group in labels.values()) == 59
    assert sum(len(group) for image, group in labels.items() if len(set(image)) == 1) == 12


def test_flaws_are_counted():
    """Three copies of one face under two labels, two of another under one, a white image: planted in drawn faces."""
    faces = synthetic_faces(40, seed=6)
    images, labels = faces.images.clone(), faces.labels.clone()
    images[[5, 30]] = images[1].clone()
    labels[[1, 5]], labels[30] = 2, 4
    images[11], labels[11] = images[2].clone(), labels[2]
    images[20] = 255
    first, second = FaceSet(images[:25], labels[:25]), FaceSet(images[25:], labels[25:])
    found = flaws(first, second)
    pixels = images.double() / 255
    assert found == {
        "repeats": 3,
        "conflicting_groups": 1,
        "constant_images": 1,
        "pixel_mean": round(pixels.mean().item(), 4),
        "pixel_deviation": round(pixels.std(correction=0).item(), 4),
    }


def test_the_record_counts_the_flaws_of_fer2013():
    """The counts of an independent check of the same copy."""
    found = json.loads((Path(__file__).parents[1] / "book/results/fer2013.json").read_text())["flaws"]
    assert (found["repeats"], found["conflicting_groups"], found["constant_images"]) == (1855, 59, 12)
    assert abs(found["pixel_mean"] - 0.507) < 0.002
    assert abs(found["pixel_deviation"] - 0.255) < 0.002
