"""FER2013: 35,887 grey faces of 48x48 pixels in seven classes, from whichever copy the reader has.

`load_fer2013` reads `fer2013.csv` or `icml_face_data.csv` (plain, .gz, .zip, .xz) or a folder of images. The first read
checks every row and leaves a uint8 cache behind; later reads map that cache into memory. A bad row is never skipped:
`DataError` names the file, the row (the line number an editor shows; the header is line 1) and the reason.
"""

import csv
import gzip
import hashlib
import io
import lzma
import os
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from .records import sweep, write_atomically

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# The published number of images per split and class, in the order of CLASSES: 28,709 + 3,589 + 3,589 = 35,887.
SPLIT_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "public": (467, 56, 496, 895, 653, 415, 607),
    "private": (491, 55, 528, 879, 594, 416, 626),
}

# Where `load_fer2013()` looks when neither an argument nor MIFAD_FER2013 says: in PLACES, seen from the current folder
# and the two above it, then in the cache folder; for a file of these NAMES first, then for a folder of images.
PLACES = (".", "data", "data/fer2013", "shared/data")
NAMES = tuple(f"{stem}.csv{end}" for stem in ("fer2013", "icml_face_data") for end in ("", ".gz", ".zip", ".xz"))

IMAGES = sum(map(sum, SPLIT_COUNTS.values()))
LONGEST = 20_000  # signs in a line: a face has 9,216 at most. More is an archive made to fill the memory.
MOST = 4 * IMAGES  # lines, empty ones too

SIZE = 48
PIXELS = SIZE * SIZE
COLUMNS = ("emotion", "pixels", "usage")
LABELS = {str(number): number for number in range(len(CLASSES))}
USAGES = {"Training": 0, "PublicTest": 1, "PrivateTest": 2}
CLASS_FOLDERS = {name: number for number, name in enumerate(CLASSES)} | {"disgusted": 1, "fearful": 2, "surprised": 5}
SPLIT_FOLDERS = {"train": 0, "public": 1, "validation": 1, "val": 1, "private": 2, "test": 2}


class DataError(ValueError):
    """The data is not what it should be; the message is one sentence with file, row and reason."""


@dataclass
class FaceSet:
    """One split: images (N, 1, 48, 48) uint8 and labels (N,) int64, an index into CLASSES.

    twin (N,) bool is True where the image also stands in the training split, pixel for pixel; None where that has no
    meaning, as in the training split itself.
    """

    images: torch.Tensor
    labels: torch.Tensor
    twin: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index) -> "FaceSet":
        """The images that `index` picks: a slice, positions (list or tensor), or a bool tensor (N,)."""
        return FaceSet(self.images[index], self.labels[index], None if self.twin is None else self.twin[index])


@dataclass
class FaceData:
    """The three splits of a data set, its name, and the hash of its content (`content_sha256`)."""

    train: FaceSet
    public: FaceSet
    private: FaceSet
    name: str
    sha256: str


def load_fer2013(path=None, *, strict: bool = True) -> FaceData:
    """FER2013 from `path`: a CSV file, a folder that holds one, or a folder of images such as train/angry/*.jpg.

    Without `path`, MIFAD_FER2013 says where it is; without that, PLACES are searched. `strict` demands the published
    counts (SPLIT_COUNTS); `strict=False` takes subsets. The order within a split is the file's; that of images is by
    the number in their names. The cache lies in MIFAD_CACHE, else ~/.cache/mifad_lite.

    Raises FileNotFoundError if there is no data, DataError if the data is bad.
    """
    path = locate(path)
    cache = cache_folder() / f"fer2013-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}.npy"
    stamp = _stamp(path)
    flat = _read_cache(cache, stamp)
    if flat is None:
        flat = _pack(*(_read_folder(path) if path.is_dir() else _read_csv(path)), stamp)
        _write_cache(cache, flat)
    splits, sha256 = _unpack(flat)
    difference = _first_difference(splits)
    if difference and strict:
        raise DataError(f"{path}: {difference}; strict=False accepts subsets.")
    return FaceData(*splits, name="FER2013 subset" if difference else "FER2013", sha256=sha256)


def flaws(*splits: FaceSet) -> dict[str, float]:
    """Repeats, contradictions and constants over all splits together, and the mean and deviation of a pixel in [0, 1].

    repeats: images that another image before them equals pixel for pixel.  conflicting_groups: groups of equal images
    with more than one label.  constant_images: images of one gray level.
    """
    images = torch.cat([s.images for s in splits])
    groups: dict[bytes, set[int]] = {}
    for image, label in zip(images, torch.cat([s.labels for s in splits]).tolist(), strict=True):
        groups.setdefault(image.numpy().tobytes(), set()).add(label)
    flat = images.flatten(1)
    share = torch.bincount(flat.flatten().int(), minlength=256).double() / flat.numel()  # of each gray level
    level = torch.arange(256) / 255.0
    mean = (share * level).sum()
    return {
        "repeats": len(images) - len(groups),
        "conflicting_groups": sum(len(labels) > 1 for labels in groups.values()),
        "constant_images": int((flat.amax(1) == flat.amin(1)).sum()),
        "pixel_mean": round(mean.item(), 4),
        "pixel_deviation": round((share * (level - mean) ** 2).sum().sqrt().item(), 4),
    }


def content_sha256(*splits: FaceSet) -> str:
    """SHA-256 of all pixels, then one byte per label, then one byte per image with the number of its split."""
    digest = hashlib.sha256()
    for faces in splits:
        digest.update(faces.images.contiguous().numpy())
    for faces in splits:
        digest.update(faces.labels.to(torch.uint8).numpy())
    for number, faces in enumerate(splits):
        digest.update(bytes([number]) * len(faces))
    return digest.hexdigest()


def locate(path=None) -> Path:
    """The CSV file or image folder that `load_fer2013(path)` reads; FileNotFoundError says how to get one."""
    wanted = path if path is not None else os.environ.get("MIFAD_FER2013")
    if wanted:
        found = Path(os.path.expanduser(wanted))
        if not found.exists():
            source = "" if path is not None else ", to which MIFAD_FER2013 points"
            raise FileNotFoundError(f"There is no file or folder {found}{source}.")
        if not found.is_file() and not found.is_dir():  # a pipe would be waited for without end
            raise DataError(f"{found}: this is neither a file nor a folder.")
        return _table_in(found) or found
    here = Path.cwd()
    folders = [base / place for base in (here, *here.parents)[:3] for place in PLACES] + [cache_folder()]
    images = (folder for folder in folders if any((folder / "train" / name).is_dir() for name in CLASSES))
    found = next(filter(None, map(_table_in, folders)), None) or next(images, None)
    if found is None:
        raise FileNotFoundError(
            "FER2013 was not found: download fer2013.csv or icml_face_data.csv (Kaggle competition challenges-in-"
            "representation-learning-facial-expression-recognition-challenge) or the images (Kaggle data set "
            "msambare/fer2013), and put them into data/ or name them by path or in MIFAD_FER2013; the drawn faces of "
            "synthetic_faces need no download."
        )
    return found


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def cache_folder() -> Path:
    """MIFAD_CACHE, else mifad_lite in XDG_CACHE_HOME, else ~/.cache/mifad_lite."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(os.environ.get("MIFAD_CACHE") or os.path.join(base, "mifad_lite")))


def _first_difference(splits) -> str | None:
    for (split, published), faces in zip(SPLIT_COUNTS.items(), splits, strict=True):
        counts = faces.labels.bincount(minlength=len(CLASSES)).tolist()
        for name, count, wanted in zip(CLASSES, counts, published, strict=True):
            if count != wanted:
                return f"the {split} split has {count} images of class {name}, not the published {wanted}"
    return None


# --- Reading: both readers return pixels (N * 2304,), labels (N,), usages (N,), all uint8, in the source's order. ---


def _read_csv(path: Path):
    pixels, labels, usages = [], bytearray(), bytearray()
    for rows, table in _tables(path):
        for row, label, text, usage in zip(rows, *(table[column] for column in table), strict=True):
            if len(labels) == IMAGES:
                raise DataError(f"{path}, row {row}: FER2013 has {IMAGES:,} images, and the file has more.")
            where, label, text, usage = f"{path}, row {row}", label.strip(' "'), text.strip(' "'), usage.strip(' "')
            if label not in LABELS:
                raise DataError(f"{where}: the emotion is {label[:40]!r}, not one of 0 to 6.")
            if usage not in USAGES:
                raise DataError(f"{where}: the usage is {usage[:40]!r}, not one of {', '.join(USAGES)}.")
            pixels.append(_parse(text, where))
            labels.append(LABELS[label])
            usages.append(USAGES[usage])
    if not pixels:
        raise DataError(f"{path}: the file has a header but no rows.")
    return tuple(np.frombuffer(part, np.uint8) for part in (b"".join(pixels), labels, usages))


def _parse(text: str, where: str) -> bytes:
    values = np.empty(0)
    if not text.encode().translate(None, b"0123456789 \t"):  # digits and blanks only: fromstring cannot misread them
        values = np.fromstring(text, np.int64, sep=" ")
    if values.size == PIXELS and values.max() <= 255:
        return values.astype(np.uint8).tobytes()
    tokens = re.findall("[^ \t]+", text)
    if len(tokens) != PIXELS:
        raise DataError(f"{where}: the row has {len(tokens)} pixels, not {SIZE} x {SIZE} = {PIXELS}.")
    bad = next(token for token in tokens if not re.fullmatch("0*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])", token))
    raise DataError(f"{where}: the pixel {bad[:40]!r} is not an integer from 0 to 255.")


def _tables(path: Path, size: int = 2048):
    """(row numbers, pandas table of text with COLUMNS in that order) for every `size` rows; skips empty lines."""
    lines = ((row, line) for row, line in enumerate(_lines(path), 1) if line.strip())
    row, header = next(lines, (0, ""))
    if not header:
        raise DataError(f"{path}: the file is empty.")
    names = [name.strip(' "\n').lower() for name in header.split(",")]
    for column in COLUMNS:
        if column not in names:
            header = header.strip()[:40]
            raise DataError(f"{path}, row {row}: this is not FER2013, as {header!r} names no column {column!r}.")
    while batch := list(islice(lines, size)):
        for row, line in batch:
            if line.count(",") != len(names) - 1:
                cut = "" if line.endswith("\n") else ", so the file seems to be cut short"
                raise DataError(f"{path}, row {row}: the row has {line.count(',') + 1} columns, not {len(names)}{cut}.")
        rows, text = zip(*batch, strict=True)
        text = io.StringIO("".join(text))
        table = pd.read_csv(text, header=None, dtype=object, na_filter=False, quoting=csv.QUOTE_NONE)
        yield rows, table[[names.index(column) for column in COLUMNS]]


def _lines(path: Path):
    """The lines of a text file, decompressed as its first bytes demand."""
    row = 0
    with open(path, "rb") as raw:
        try:
            with io.TextIOWrapper(_decompress(path, raw), "utf-8-sig", errors="replace") as lines:
                while line := lines.readline(LONGEST + 1):
                    row += 1
                    if len(line) > LONGEST:
                        raise DataError(f"{path}, row {row}: the row is longer than {LONGEST:,} signs.")
                    if row > MOST:
                        raise DataError(f"{path}: the file has more than {MOST:,} lines, so it is not FER2013.")
                    yield line
        except DataError:
            raise
        except Exception as error:  # gzip, lzma, zlib and zipfile have many ways to say it
            raise DataError(f"{path}, row {row + 1}: the file is cut short or damaged here ({error}).") from None


def _decompress(path: Path, raw):
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(raw)
    if magic == b"\xfd7zXZ\0":
        return lzma.open(raw)
    if not magic.startswith(b"PK"):
        return raw
    archive = zipfile.ZipFile(raw)
    tables = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX")]
    if not tables:
        raise DataError(f"{path}: the archive holds no CSV file; if it holds images, unpack it and name the folder.")
    return archive.open(min(tables, key=lambda name: os.path.basename(name) not in NAMES))  # a known name goes first


def _read_folder(folder: Path):
    pixels, labels, usages = [], bytearray(), bytearray()
    for usage, _, path in _images(folder):
        name = os.path.basename(os.path.dirname(path))
        if name.lower() not in CLASS_FOLDERS:
            raise DataError(f"{path}: the folder of the image is {name!r}, not one of {', '.join(CLASSES)}.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow remarks on size, which is compared here
                with Image.open(path, formats=("PNG", "JPEG")) as image:  # no other: it runs Ghostscript on some
                    if (size := image.size) == (SIZE, SIZE):  # the rest is not unpacked
                        pixels.append(image.convert("L").tobytes())
        except Exception as error:  # Pillow has many ways to say it
            raise DataError(f"{path}: the image cannot be read ({error}).") from None
        if size != (SIZE, SIZE):
            raise DataError(f"{path}: the image has {size[0]} x {size[1]} pixels, not {SIZE} x {SIZE}.")
        labels.append(CLASS_FOLDERS[name.lower()])
        usages.append(usage)
    return tuple(np.frombuffer(part, np.uint8) for part in (b"".join(pixels), labels, usages))


def _images(folder: Path) -> list:
    """(usage, number in the name, path) of every image below the folder, sorted.

    The usage is told by the name's prefix (PublicTest_123.jpg), else by the folder (train/angry/123.jpg).
    """

    def refuse(error: OSError):
        raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror}).")

    found = []
    for place, _, names in os.walk(folder.resolve(), onerror=refuse):
        split = SPLIT_FOLDERS.get(os.path.basename(os.path.dirname(place)).lower())
        for name in names:
            if name.lower().endswith((".jpg", ".jpeg", ".png")) and not name.startswith("."):
                usage = USAGES.get(name.split("_")[0], split)
                if usage is None:
                    raise DataError(f"{os.path.join(place, name)}: neither name nor folder tells the image's split.")
                found.append((usage, int(re.sub("[^0-9]", "", name) or 0), os.path.join(place, name)))
    if not found:
        raise DataError(f"{folder}: the folder holds no fer2013.csv, no icml_face_data.csv and no images.")
    return sorted(found)


# --- The cache: one flat uint8 array in a .npy file, of pixels (N * 2304), labels (N), usages (N), twins (N), then the
# content's SHA-256 (32), the source's stamp (32) and the CRC-32 of all that (4). Rows are sorted by usage. ------------


def _pack(pixels, labels, usages, stamp: bytes) -> np.ndarray:
    order = np.argsort(usages, kind="stable")
    pixels, labels, usages = pixels.reshape(-1, PIXELS)[order], labels[order], usages[order]
    train = {image.tobytes() for image in pixels[usages == 0]}
    twins = [usage > 0 and image.tobytes() in train for usage, image in zip(usages, pixels, strict=True)]
    flat = np.concatenate([pixels.ravel(), labels, usages, np.array(twins, np.uint8), np.zeros(68, np.uint8)])
    flat[-68:-4] = np.frombuffer(bytes.fromhex(content_sha256(*_unpack(flat)[0])) + stamp, np.uint8)
    flat[-4:] = np.frombuffer(zlib.crc32(flat[:-4]).to_bytes(4, "little"), np.uint8)
    return flat


def _unpack(flat: np.ndarray):
    """The three FaceSets, whose images are views of `flat`, and the SHA-256."""
    n = (flat.size - 68) // (PIXELS + 3)
    images = torch.from_numpy(flat[: n * PIXELS].reshape(n, 1, SIZE, SIZE))
    labels, usages, twins = flat[n * PIXELS : -68].reshape(3, n)
    splits = []
    for number in range(3):
        part = slice(*np.searchsorted(usages, [number, number + 1]))
        twin = torch.from_numpy(twins[part].astype(bool)) if number > 0 else None
        splits.append(FaceSet(images[part], torch.from_numpy(labels[part].astype(np.int64)), twin))
    return splits, flat[-68:-36].tobytes().hex()


def _stamp(path: Path) -> bytes:
    """A hash of what the cache depends on: path, size and time of the file, or of every image in the folder."""
    files = [file for _, _, file in _images(path)] if path.is_dir() else [os.fspath(path.resolve())]
    states = [(file, os.stat(file)) for file in files]
    text = repr([(file, state.st_size, state.st_mtime_ns) for file, state in states])
    return hashlib.sha256(f"layout 1 {text}".encode()).digest()


def _read_cache(cache: Path, stamp: bytes) -> np.ndarray | None:
    try:
        flat = np.lib.format.open_memmap(cache, mode="c").view(np.ndarray)
        sound = flat[-36:-4].tobytes() == stamp and flat[-4:].tobytes() == zlib.crc32(flat[:-4]).to_bytes(4, "little")
    except Exception:  # missing or damaged, in whatever way: it is made anew
        return None
    return flat if sound else None


def _write_cache(cache: Path, flat: np.ndarray) -> None:
    def save(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.save(file, flat)

    try:
        sweep(cache)
        write_atomically(cache, save)
    except OSError as error:
        warnings.warn(f"FER2013 is not cached, so every load reads it anew: {error}.", stacklevel=3)
