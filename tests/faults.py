"""Everything we know to feed mifad_lite that it should refuse, as one table of kinds: damaged files, junk, full disks.

A kind is a function (rng, work) -> Case: it fills the empty folder `work` and says which command to run on it.
`outcome` runs the case and judges it. tests/test_faults.py draws a few cases of each kind; this command draws many,
and writes the record that the book shows:

    python tests/faults.py --draws 200 --seed 0 --out book/results/faults.json
"""

import argparse
import contextlib
import fnmatch
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import mifad_lite.__main__ as cli
from mifad_lite import (
    MIFADConfig,
    MIFADNet,
    ResNet18,
    ResNetConfig,
    TrainConfig,
    data,
    fit,
    save_network,
    synthetic_data,
    synthetic_faces,
)
from mifad_lite.baseline import ColumnsNet
from mifad_lite.checkpoint import load_network, read_tensors, write_tensors
from mifad_lite.data import CLASSES
from mifad_lite.records import provenance, write_record

ROOT = Path(__file__).parents[1]
USAGES = ("Training", "PublicTest", "PrivateTest")
FORMS = ("csv", "gz", "zip", "xz")
MINI = MIFADConfig(widths=(2, 2, 4, 4, 4, 4), channels=4, embedding=8)
FEW = "drawn:16,public=7,private=7"
SMOKE = ["train", "--profile", "smoke", "--data", FEW, "--batch", "8"]

# What a case can come to. All but the first three are defects.
OUTCOMES = {
    "refused": "exit code 1 and one sentence that names the file or the option (2 and the usage: not such an option)",
    "accepted": "exit code 0 and a result that is checked",
    "before_start": "ended by a signal before Python had reached the package",
    "missed": "taken, though it must be refused",
    "wrong": "exit code 0 and a result that is wrong",
    "unclear": "refused with anything but one sentence that names what is wrong",
    "traceback": "a traceback",
    "half_written": "a file that is half written, changed without leave, or left behind",
    "executed": "code from a file was run",
}

DEFECTS = list(OUTCOMES)[3:]


@dataclass
class Case:
    """One command on one folder, and what may come of it.

    names: the sentence of a refusal must contain one of these.
    valid: is the result right, where the command succeeds? Gets what was printed.
    writes: patterns of the files that may be new or changed after a success; partial: after a refusal too, if whole.
    must: "refused" or "accepted" where only that is right.
    around: a context in which the command runs.  call: run this in place of a command; ValueError is the refusal.
    """

    argv: list
    names: tuple[str, ...] = ()
    valid: Callable[[str], bool] = lambda printed: True
    writes: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    must: str | None = None
    around: Callable = nullcontext
    call: Callable | None = None


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    hits: str
    what: str
    make: Callable[[np.random.Generator, Path], Case]
    slow: int  # 0; where a case takes seconds: by how much the number of slow draws is divided


KINDS: dict[str, Kind] = {}


def kind(hits: str, slow: int = 0):
    """Enter a function into the table; its docstring says what the fault is. See Kind for `slow`."""

    def enter(make):
        KINDS[make.__name__] = Kind(make.__name__, hits, " ".join(make.__doc__.split()), make, slow)
        return make

    return enter


# --- Running a case and judging it ------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with the hash of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            whole = stat.S_ISREG(mode)
            found[path.relative_to(folder).as_posix()] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if whole else str(stat.S_IFMT(mode))
            )
    return found


def is_whole(path: Path) -> bool:
    """Can the file be read to its end, as what its name says it is?"""
    try:
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npy":
            np.load(path)
    except Exception:
        return False
    return not path.name.startswith(".") and path.suffix in (".safetensors", ".json", ".npy")


def captured(function) -> tuple:
    """What `function` returns or raises, and what came on standard output and error, from C libraries too."""
    with tempfile.TemporaryFile() as low, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        saved = os.dup(2)
        os.dup2(low.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.filterwarnings("ignore", "FER2013 is not cached")  # it works without
                result = function()
        except (Exception, SystemExit) as error:
            result = error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        low.seek(0)
        return result, out.getvalue(), err.getvalue() + low.read().decode(errors="replace")


def program(command: list, **options) -> tuple[int, str, str]:
    """Run another process: -> its exit code and what it printed."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


def judge(case: Case, work: Path, before: dict, result, printed: str, err: str) -> tuple[str, str]:
    """-> outcome and the reason."""
    after = snapshot(work)
    if "mark" in after:
        return "executed", "the mark is there"
    if isinstance(result, BaseException) and not isinstance(result, SystemExit):
        return "traceback", f"{type(result).__name__}: {result}"
    if result == "before_start":
        return result, err
    if "Traceback" in err:
        return "traceback", err
    code = result.code if isinstance(result, SystemExit) else result
    allowed = case.writes + case.partial if code == 0 else case.partial
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name) and not (
            any(fnmatch.fnmatch(name, pattern) for pattern in allowed) and name in after and is_whole(work / name)
        ):
            return "half_written", f"{name} {'changed' if name in before and name in after else 'came or went'} ({err})"
    said = err.splitlines()
    if code == 0:
        if case.must == "refused":
            return "missed", f"exit code 0: {printed}"
        return ("accepted", err) if case.valid(printed) else ("wrong", printed + err)
    if case.must == "accepted":
        return "wrong", f"exit code {code}: {err}"
    if code == 2 and isinstance(result, SystemExit) and said[0].startswith("usage: mifad_lite"):
        return "refused", said[-1]
    stopped = code in (128 + signal.SIGINT, 128 + signal.SIGTERM) and "stopped" in case.names
    start = "mifad_lite" if stopped else f"mifad_lite {case.argv[0]}: "
    if not (code == 1 or stopped) or len(said) != 1 or not said[0].startswith(start):
        return "unclear", f"exit code {code}: {err}"
    if not any(name in said[0] for name in case.names):
        return "unclear", f"none of {case.names} in: {said[0]}"
    return "refused", said[0]


def outcome(row: Kind, seed: int) -> tuple[str, str]:
    """Draw one case of a kind, run it in a folder of its own, and judge it."""
    rng = np.random.default_rng([seed, zlib.crc32(row.name.encode())])
    with tempfile.TemporaryDirectory(prefix="faults ") as place, mock.patch.dict(os.environ):
        work = Path(place) / "work"
        work.mkdir()
        os.chmod(place, 0o755)
        os.environ["MIFAD_CACHE"] = str(work / "cache")
        case = row.make(rng, work)
        before = snapshot(work)
        with case.around():
            run = case.call or (lambda: cli.main([str(part) for part in case.argv]))
            result, printed, err = captured(run)
        if isinstance(result, tuple):  # of another process
            result, printed, err = result
        elif case.call and isinstance(result, ValueError):
            result, err = 1, f"mifad_lite {case.argv[0]}: {result}"
        elif case.call and result is None:
            result = 0
        try:
            return judge(case, work, before, result, printed, err)
        finally:
            if os.path.ismount(work):
                subprocess.run(["umount", work], check=True)


# --- Sound files, made once, and ways to damage them ------------------------------------------------------------------


def pick(rng, options):
    """One of a sequence."""
    return options[int(rng.integers(len(options)))]


@cache
def rows() -> tuple[str, ...]:
    """A small FER2013: one drawn face of each class in each split."""
    faces = synthetic_faces(21, seed=3)
    order = faces.labels.argsort(stable=True).tolist()
    return tuple(
        f"{int(faces.labels[i])},{' '.join(map(str, faces.images[i].flatten().tolist()))},{USAGES[place % 3]}\n"
        for place, i in enumerate(order)
    )


def packed(text: bytes, form: str) -> bytes:
    if form == "zip":
        with io.BytesIO() as buffer:
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("fer2013.csv", text)
            return buffer.getvalue()
    return {"gz": gzip.compress, "xz": lzma.compress}.get(form, bytes)(text)


@cache
def table(form: str) -> bytes:
    return packed(("emotion,pixels,Usage\n" + "".join(rows())).encode(), form)


@cache
def checkpoint() -> bytes:
    """A small network on disk."""
    with tempfile.TemporaryDirectory() as place:
        torch.manual_seed(0)
        save_network(Path(place) / "net.safetensors", MIFADNet(MINI), epoch=3)
        return (Path(place) / "net.safetensors").read_bytes()


@cache
def picture(form: str = "PNG") -> bytes:
    with io.BytesIO() as buffer:
        image = Image.fromarray(synthetic_faces(1, seed=2).images[0, 0].numpy())
        options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
        image.save(buffer, form, **options)
        return buffer.getvalue()


class Cut(Exception):
    pass


@cache
def cut_run() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of a run of two epochs, after the first and at the end."""
    faces, config = synthetic_data(16, 7, 7), cli.profile("smoke", epochs=2, batch=8)
    with tempfile.TemporaryDirectory() as place:

        def cut(line):
            raise Cut

        with contextlib.suppress(Cut):
            fit(faces, config, place, log=cut)
        first = {path.name: path.read_bytes() for path in Path(place).iterdir()}
        fit(faces, config, place, resume=True)
        return first, {path.name: path.read_bytes() for path in Path(place).iterdir()}


def flipped(rng, raw: bytes, low: int = 0, high: int | None = None, most: int = 8) -> bytes:
    """Some bits of raw[low:high] turned over, an odd number of them, so that something is different."""
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, most + 1)) | 1):
        changed[int(rng.integers(low, high or len(raw)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(rng, raw: bytes) -> bytes:
    return raw[: int(rng.integers(len(raw)))]


JUNK = [
    None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**30, -(10**30), 0.5, -0.5, 1e-300, 1e300,
    float("nan"), float("inf"), -float("inf"), "", "wide", "3", "\n", [], [1], [[]], ["a"], [None], {}, {"a": 1},
    [3, 3, 3], [float("nan")], [2**40] * 6, [0.5] * 6, [-1] * 6,
]  # fmt: skip


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


# --- Data ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_counts():
    """One face of each class is what the small FER2013 should have."""
    with mock.patch.object(data, "SPLIT_COUNTS", {name: (1,) * 7 for name in ("train", "public", "private")}):
        yield


@cache
def pixels(form: str = "csv") -> np.ndarray:
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, MIFAD_CACHE=place), small_counts():
        (Path(place) / "fer2013.csv").write_bytes(table("csv"))
        loaded = data.load_fer2013(Path(place) / "fer2013.csv")
        return np.concatenate(
            [s.images.flatten(1).numpy().copy() for s in (loaded.train, loaded.public, loaded.private)]
        )


def data_case(path: Path, work: Path, changed_pixels: int = 0, **more) -> Case:
    """`data` on a path. Where it takes the file, it must hold the faces; so many pixels may be others."""

    def same(printed: str) -> bool:
        with small_counts(), warnings.catch_warnings(action="ignore"):
            loaded = data.load_fer2013(path)
        found = np.concatenate([s.images.flatten(1).numpy() for s in (loaded.train, loaded.public, loaded.private)])
        return found.shape == (21, 48 * 48) and int((found != pixels()).sum()) <= changed_pixels

    more = {"names": (str(path),), "valid": same, "partial": ("cache/fer2013-*.npy",), "around": small_counts} | more
    return Case(["data", "--data", path], **more)


@kind("data")
def table_truncated(rng, work):
    """FER2013 as .csv, .gz, .zip or .xz, cut anywhere"""
    form = pick(rng, FORMS)
    path = work / "fer2013.csv"
    path.write_bytes(cut(rng, table(form)))
    return data_case(path, work, names=(str(path),))  # a cut of the last line break alone does no harm


@kind("data")
def table_flipped(rng, work):
    """FER2013 as .csv, .gz, .zip or .xz with up to nine bits flipped"""
    form = pick(rng, FORMS)
    path = work / f"fer2013.{form}"
    path.write_bytes(flipped(rng, table(form)))
    return data_case(path, work, changed_pixels=9 if form == "csv" else 0)


@kind("data")
def table_renamed(rng, work):
    """FER2013 under another form's name, and other files under its name"""
    contents = [*map(table, FORMS), picture("PNG"), picture("JPEG"), checkpoint(), b"<!DOCTYPE html>\n<p>Sign in</p>\n"]
    contents += [pickle.dumps(Trap(work / "mark")), b"", b"\0" * 1000, rng.bytes(3000), json.dumps([1] * 99).encode()]
    number = int(rng.integers(len(contents)))
    path = work / pick(rng, ("fer2013.csv", "fer2013.csv.zip", "faces.png", "fer 2013.xz", "数据.gz", "ü", "a\nb.csv"))
    path.write_bytes(contents[number])
    says = (str(path).replace("\n", " "),)
    return data_case(path, work, names=says, must="accepted" if number < len(FORMS) else "refused")


@kind("data")
def table_cells(rng, work):
    """FER2013 with one cell, row or column that is wrong"""
    lines = [line.rstrip("\n").split(",") for line in rows()]
    header = ["emotion", "pixels", "Usage"]
    row, column = int(rng.integers(len(lines))), int(rng.integers(3))
    values = [
        "",
        "7",
        "-1",
        "nan",
        "inf",
        "1e3",
        "0x1",
        "½",
        "٣",
        "256",
        "1 2",
        '"',
        "\x00",
        "Training2",
        "9" * 5000,
        "é" * 300,
    ]
    what = int(rng.integers(7))
    if what <= 2:
        value = pick(rng, values)
        if column == 1 and rng.integers(2):
            numbers = lines[row][1].split(" ")
            numbers[int(rng.integers(len(numbers)))] = value
            value = " ".join(numbers)
        lines[row][column] = value
    elif what == 3:
        lines[row] = lines[row][:column] + lines[row][column + 1 :]
    elif what == 4:
        lines[row].insert(column, pick(rng, values))
    elif what == 5:
        del lines[row]
    else:
        header[column] = pick(rng, ["", "label", "pixels", "Usage", '"'])
    text = "\n".join(",".join(line) for line in [header, *lines]) + "\n"
    path = work / "fer2013.csv"
    path.write_bytes(packed(text.encode(), pick(rng, FORMS)))
    # an emotion of another class is for the counts to find; quotes alone are stripped
    return data_case(path, work, changed_pixels=1)


@kind("data")
def folder_damaged(rng, work):
    """a folder of images with one that is cut, flipped, of another size, class or kind, or a bomb"""
    folder = work / "faces"
    for number, line in enumerate(rows()):
        label, text, usage = line.strip().split(",")
        place = folder / ("train" if usage == "Training" else "test") / CLASSES[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(text.split(), np.uint8).reshape(48, 48)).save(place / f"{usage}_{number}.png")
    victim = pick(rng, sorted(folder.rglob("*.png")))
    raw, what = victim.read_bytes(), int(rng.integers(9))
    if what == 0:
        victim.write_bytes(cut(rng, raw))
    elif what == 1:
        victim.write_bytes(flipped(rng, raw))
    elif what == 2:
        Image.new("L", (int(rng.integers(1, 99)), 47)).save(victim)
    elif what == 3:
        victim.write_bytes(
            pick(rng, [b"", b"no picture", pickle.dumps(Trap(work / "mark")), checkpoint(), table("zip")])
        )
    elif what == 4:
        victim.write_bytes(huge_png(int(10 ** rng.uniform(3, 5))))
    elif what == 5:
        shutil.copytree(victim.parent, victim.parent.with_name("bored"))
    elif what == 6:
        victim.rename(victim.with_name(f"Sunday_{'1' * 200}.png"))  # the folder tells its split
    elif what == 7:
        victim.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    # A flipped bit can leave another picture of the right size, and another number in the name another order.
    return data_case(folder, work, changed_pixels={1: 48 * 48, 6: 21 * 48 * 48}.get(what, 0))


def huge_png(side: int) -> bytes:
    """A small file that says it holds side x side pixels."""

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    body = zlib.compress(b"\0" * min(side * (side + 1), 10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@kind("data")
def cache_damaged(rng, work):
    """the cache of FER2013 cut, flipped, emptied, swapped for a pickle or a folder"""
    path = work / "fer2013.csv"
    path.write_bytes(table("csv"))
    with small_counts():
        data.load_fer2013(path)
    (stored,) = (work / "cache").iterdir()
    what = int(rng.integers(5))
    if what == 0:
        stored.write_bytes(cut(rng, stored.read_bytes()))
    elif what == 1:
        stored.write_bytes(flipped(rng, stored.read_bytes()))
    elif what == 2:
        np.save(stored, np.array([Trap(work / "mark")], dtype=object), allow_pickle=True)
    elif what == 3:
        stored.write_bytes(pickle.dumps(Trap(work / "mark")))
    else:
        stored.unlink()
        stored.mkdir()
    return data_case(path, work, must="accepted")


# --- Pictures ---------------------------------------------------------------------------------------------------------


def answers(printed: str) -> bool:
    """`predict --json` printed seven probabilities."""
    found = json.loads(printed)["probabilities"]
    return list(found) == list(CLASSES) and abs(sum(found.values()) - 1) < 1e-6 and min(found.values()) >= 0


@kind("predict")
def picture_damaged(rng, work):
    """a PNG, JPEG, GIF, BMP, TIFF, WebP or PPM, cut or with bits flipped"""
    raw = picture(pick(rng, ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")))
    (work / "face").write_bytes(cut(rng, raw) if rng.integers(2) else flipped(rng, raw))
    (work / "net.safetensors").write_bytes(checkpoint())
    argv = ["predict", work / "face", "--checkpoint", work / "net.safetensors", "--json"]
    return Case(argv, names=(str(work / "face"),), valid=answers)


@kind("predict")
def picture_foreign(rng, work):
    """what is no picture: a program in PostScript, text, a pickle, a bomb, a folder, a pipe, nothing"""
    (work / "net.safetensors").write_bytes(checkpoint())
    path = work / pick(rng, ("face.png", "my face.jpg", "gesicht ä 脸.gif", "a\nb.png", ".png"))
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\n({work}/mark) (w) file closefile\n"
    contents = [program.encode() + b"showpage\n%%EOF\n", b"no face here\n", pickle.dumps(Trap(work / "mark"))]
    contents += [
        huge_png(20_000),
        huge_png(200_000),
        b"",
        rng.bytes(500),
        table("zip"),
        checkpoint(),
        None,
        "pipe",
        "gone",
    ]
    content = pick(rng, contents)
    if content is None:
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content != "gone":
        path.write_bytes(content)
    argv = ["predict", path, "--checkpoint", work / "net.safetensors", "--json"]
    return Case(argv, names=(str(path).replace("\n", " "),), must="refused")


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def checkpoint_case(rng, path: Path, work: Path, **more) -> Case:
    """One of the commands that read a checkpoint."""
    (work / "face.png").write_bytes(picture())
    command = pick(rng, ("predict", "predict", "evaluate", "inspect", "shrink"))
    argv = {
        "predict": ["predict", work / "face.png", "--checkpoint", path, "--json"],
        "evaluate": ["evaluate", "--data", FEW, "--checkpoint", path, "--out", work / "out.json"],
        "inspect": ["inspect", "--data", FEW, "--checkpoint", path, "--faces", 1, "--out", work / "out.json"],
        "shrink": ["shrink", path, "--out", work / "out.safetensors"],
    }[command]
    more = {"names": (str(path),), "writes": ("out.*",)} | more
    return Case(argv, **more)


def unchanged(path: Path) -> Callable[[str], bool]:
    """Taken, so it must hold what was saved."""

    def same(printed: str) -> bool:
        net, meta = load_network(path)
        torch.manual_seed(0)
        saved = MIFADNet(MINI).state_dict()
        return meta["epoch"] == 3 and all(torch.equal(t, saved[name]) for name, t in net.state_dict().items())

    return same


@kind("checkpoint")
def checkpoint_truncated(rng, work):
    """a checkpoint cut anywhere, or with bytes after its end"""
    path = work / "net.safetensors"
    path.write_bytes(cut(rng, checkpoint()) if rng.integers(4) else checkpoint() + rng.bytes(int(rng.integers(1, 99))))
    return checkpoint_case(rng, path, work, must="refused")


@kind("checkpoint")
def weights_flipped(rng, work):
    """a checkpoint with up to nine bits flipped in its weights"""
    path, raw = work / "net.safetensors", checkpoint()
    path.write_bytes(flipped(rng, raw, low=8 + int.from_bytes(raw[:8], "little")))
    return checkpoint_case(rng, path, work, must="refused")


@kind("checkpoint")
def header_flipped(rng, work):
    """a checkpoint with up to nine bits flipped in its header"""
    path, raw = work / "net.safetensors", checkpoint()
    path.write_bytes(flipped(rng, raw, high=8 + int.from_bytes(raw[:8], "little")))
    return checkpoint_case(rng, path, work, valid=unchanged(path))


@kind("checkpoint")
def pickle_inside(rng, work):
    """a pickle that makes a file when it is loaded, in place of a checkpoint: plain, or as torch saves it"""
    path = work / pick(rng, ("net.safetensors", "net.pt", "model.pth", "weights.pkl", "net 1.bin", "net"))
    trap, what = Trap(work / "mark"), int(rng.integers(4))
    if what == 0:
        path.write_bytes(pickle.dumps(trap, protocol=int(rng.integers(6))))
    elif what in (1, 2):
        torch.save({"arch": "mifad", "config": trap}, path, _use_new_zipfile_serialization=what == 1)
    else:
        path.write_bytes(checkpoint()[:8] + pickle.dumps(trap))
    return checkpoint_case(rng, path, work, must="refused")


def rewritten(rng, path: Path, change: Callable[[dict, dict], None]) -> None:
    """Write the checkpoint again with other tensors or metadata, correctly signed."""
    path.write_bytes(checkpoint())
    tensors, meta = read_tensors(path)
    change(tensors, meta)
    write_tensors(path, tensors, meta)


@kind("checkpoint")
def not_finite(rng, work):
    """a checkpoint with NaN or infinity among its weights"""

    def change(tensors, meta):
        name = pick(rng, [name for name, t in tensors.items() if t.is_floating_point()])
        flat = tensors[name].view(-1)
        flat[int(rng.integers(len(flat)))] = pick(rng, [torch.nan, torch.inf, -torch.inf])

    rewritten(rng, work / "net.safetensors", change)
    return checkpoint_case(rng, work / "net.safetensors", work, must="refused")


@kind("checkpoint")
def wrong_shape(rng, work):
    """a checkpoint with a tensor of another shape, type or name, one too few or one too many"""

    def change(tensors, meta):
        name, what = pick(rng, list(tensors)), int(rng.integers(5))
        tensor = tensors.pop(name)
        if what == 1:
            tensors["colour"] = tensor
        elif what == 2:
            tensors[name] = tensor[None].contiguous()
        elif what == 3:
            tensors[name] = torch.cat([tensor.flatten()] * 2)
        elif what == 4:
            tensors |= {name: tensor, "more": tensor.clone()}

    rewritten(rng, work / "net.safetensors", change)
    return checkpoint_case(rng, work / "net.safetensors", work, must="refused")


@kind("checkpoint")
def junk_in_metadata(rng, work):
    """a checkpoint whose metadata or configuration has junk in one place"""

    def change(tensors, meta):
        field_name = pick(rng, ["arch", "config", *2 * list(meta["config"]), "colour"])
        (meta if field_name in ("arch", "config") else meta["config"])[field_name] = pick(rng, JUNK)

    rewritten(rng, work / "net.safetensors", change)
    return checkpoint_case(rng, work / "net.safetensors", work, valid=no_nan)


def no_nan(printed: str) -> bool:
    return "nan" not in printed.lower()


@kind("checkpoint")
def other_network(rng, work):
    """a network of other classes, of another architecture for inspect, a run's state, a foreign or a huge one"""
    path, what = work / "net.safetensors", int(rng.integers(6))
    if what == 0:
        save_network(path, MIFADNet(replace(MINI, classes=pick(rng, (1, 2, 6, 8, 100)))))
    elif what == 1:
        save_network(path, ResNet18(ResNetConfig(2, classes=pick(rng, (2, 8)))))
    elif what == 2:
        path.write_bytes(cut_run()[0]["last.safetensors"])
    elif what == 3:
        save_file({"weight": torch.ones(2)}, path, metadata=pick(rng, (None, {"format": "pt"}, {"mifad": "[" * 9**5})))
    elif what == 4:  # a file of a few kilobytes that asks for many gigabytes
        huge = asdict(MINI) | {
            pick(rng, ("embedding", "channels", "classes", "pool_grid")): 10 ** int(rng.integers(5, 9))
        }
        write_tensors(path, {"weight": torch.ones(2)}, {"arch": "mifad", "config": huge})
    else:
        save_network(path, pick(rng, (ResNet18(ResNetConfig(2)), ColumnsNet(replace(MINI, head="linear")))))
        return replace(checkpoint_case(rng, path, work), names=(str(path), "inspect takes a MIFADNet"))
    case = checkpoint_case(rng, path, work)
    shrinks = case.argv[0] == "shrink" and what < 2  # any network can be made smaller
    return replace(case, must="accepted" if shrinks else "refused")


@kind("checkpoint")
def odd_paths(rng, work):
    """paths with blanks, other alphabets, line breaks, bytes that are no UTF-8; names that begin with a dash"""
    name = pick(rng, ("my net", "réseau 网络 🙂", "a\nb", "-net", "net\udcff", "n" * 240, "%s{}", "~", "'\""))
    folder = work / name
    try:
        folder.mkdir()
        os.fsencode(name)
    except (OSError, UnicodeError):
        folder = work
    path = folder / f"{name[:200]}.safetensors"
    there = bool(rng.integers(2))
    if there:
        path.write_bytes(checkpoint())
    case = checkpoint_case(rng, path, work)
    shown = str(path).replace("\n", " ")
    return replace(
        case, names=(shown,), must=("accepted" if name.isprintable() or "\n" in name else None) if there else "refused"
    )


# --- Resuming ---------------------------------------------------------------------------------------------------------


def resume_case(folder: Path, **more) -> Case:
    """Go on with a run of two epochs that was cut after the first: it must end as the uncut one, or be refused."""

    def ends_alike(printed: str) -> bool:
        with tempfile.TemporaryDirectory() as place:
            for name in ("last.safetensors", "best.safetensors"):
                (Path(place) / name).write_bytes(cut_run()[1][name])
                ours, theirs = read_tensors(folder / name)[0], read_tensors(Path(place) / name)[0]
                if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
                    return False
        return len(json.loads((folder / "record.json").read_text())["epochs"]) == 2

    for name, raw in cut_run()[0].items():
        folder.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(raw)
    argv = [*SMOKE, "--epochs", 2, "--out", folder, "--resume"]
    return Case(argv, **{"names": (str(folder),), "valid": ends_alike, "writes": ("run/*",)} | more)


@kind("resume")
def state_damaged(rng, work):
    """the state of a cut run, its best network or its record cut, flipped, swapped, pickled or gone"""
    folder = work / "run"
    case = resume_case(folder)
    victim, what = folder / pick(rng, ("last.safetensors", "best.safetensors", "record.json")), int(rng.integers(7))
    raw = victim.read_bytes()
    if what == 0:
        victim.write_bytes(cut(rng, raw))
    elif what == 1:
        victim.write_bytes(flipped(rng, raw, low=8 if raw[8:9] == b"{" else 0))
    elif what == 2:
        victim.write_bytes(
            pick(rng, [checkpoint(), cut_run()[0]["best.safetensors"], cut_run()[0]["last.safetensors"]])
        )
    elif what == 3:
        torch.save({"history": Trap(work / "mark")}, victim)
    elif what == 4 and victim.name != "last.safetensors":  # without a state there is no run to go on with
        victim.unlink()
    elif what == 5:
        victim.write_bytes(rng.bytes(100))
    else:
        victim.write_bytes(b"")
    return case


@kind("resume")
def state_altered(rng, work):
    """the state of a cut run with junk, NaN or other shapes in one place, correctly signed"""
    folder = work / "run"
    case = resume_case(folder)
    path = folder / pick(rng, ("last.safetensors", "last.safetensors", "best.safetensors"))
    tensors, meta = read_tensors(path)
    what, name = int(rng.integers(6)), pick(rng, list(tensors))
    if what == 0:
        meta[pick(rng, list(meta))] = pick(rng, JUNK)
    elif what == 1 and "history" in meta:
        meta["history"][0][pick(rng, list(meta["history"][0]))] = pick(rng, JUNK)
    elif what == 2:
        del tensors[name]
    elif what == 3:
        tensors[name] = torch.cat([tensors[name].flatten()] * 2)
    elif what == 4:
        name = pick(rng, [name for name, t in tensors.items() if t.is_floating_point()])
        tensors[name].view(-1)[0] = torch.nan
    else:
        tensors[pick(rng, ("colour", "net.colour", "optimizer.x.y.z", "optimizer.0.colour", "optimizer.99.step"))] = (
            torch.ones(1)
        )
    write_tensors(path, tensors, meta)
    # What nothing can tell from a sound run (an epoch's seconds) is taken, and trains to its end.
    return replace(
        case, valid=lambda printed: is_whole(folder / "last.safetensors") and is_whole(folder / "record.json")
    )


# --- Configurations ---------------------------------------------------------------------------------------------------


def one_epoch(config: TrainConfig) -> None:
    """Two steps and an evaluation; a loss that is not finite raises TrainingStopped."""
    faces = synthetic_data(8, 7, 7)
    net, record = fit(faces, replace(config, epochs=1, batch=4), device="cpu")
    assert np.isfinite(record["epochs"][0]["loss"]), record["epochs"][0]
    assert all(t.isfinite().all() for t in net.state_dict().values())


def config_case(make: Callable[[], TrainConfig]) -> Case:
    def call():
        try:
            one_epoch(make())
        except cli.TrainingStopped as error:  # a clear sentence too
            raise ValueError(str(error)) from None

    return Case(["config"], names=("",), call=call)


@kind("configuration")
def network_junk(rng, work):
    """MIFADConfig with junk in one or two fields"""
    names = list(asdict(MINI))
    changes = {pick(rng, names): pick(rng, JUNK) for _ in range(int(rng.integers(1, 3)))}
    network = MINI.to_dict() | changes
    case = config_case(lambda: TrainConfig(network=network, bf16=False))
    return replace(case, names=(*changes, "width"))


@kind("configuration")
def training_junk(rng, work):
    """TrainConfig or Augmentation with junk in one or two fields"""
    base = asdict(TrainConfig(network=MINI.to_dict(), bf16=False))
    names = [name for name in base if name not in ("network", "augmentation", "compile")]
    changes, spots = {}, {}
    for _ in range(int(rng.integers(1, 3))):
        if rng.integers(2):
            changes[pick(rng, names)] = pick(rng, JUNK)
        else:
            spots[pick(rng, list(base["augmentation"]))] = pick(rng, JUNK)
    if rng.integers(20) == 0:
        changes[pick(rng, ("network", "augmentation"))] = pick(rng, JUNK)
    made = base | {"augmentation": base["augmentation"] | spots} | changes
    kept = {k: made[k] for k in ("epochs", "batch") if k in changes}  # checked when built, then made small
    case = config_case(lambda: TrainConfig(**made))
    return replace(case, names=(*changes, *spots, *kept))


VALUES = [
    "0",
    "-1",
    "1",
    "2",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "x",
    "",
    "0.5",
    "1" * 30,
    "-" + "1" * 30,
    "９",
    "1e-320",
    "1_0",
    "0x10",
]


@kind("configuration")
def options_junk(rng, work):
    """the options of train with one or two values that are junk"""
    argv = [*SMOKE, "--epochs", "1", "--out", work / "run"]
    changed = []
    for _ in range(int(rng.integers(1, 3))):
        option = pick(
            rng, ("batch", "lr", "margin", "seed", "width", "data", "profile", "preset", "loss", "arch", "epochs")
        )
        value = pick(rng, VALUES)
        if option == "data":
            value = f"drawn:{value}" if rng.integers(2) else f"drawn:16,intra={value}"
        elif option == "epochs" and value in ("1" * 30, "1_0"):
            value = "-3"
        argv.append(f"--{option}={value}")
        changed.append(option)
        if option == "width":
            argv.append("--arch=resnet18")
    if "drawn:" + "1" * 30 in argv[-1]:
        changed.append("memory")
    names = (*changed, "learning rate", "lr", "--data", "margin")
    return Case(
        argv,
        names=names,
        writes=("run/*.safetensors", "run/record.json"),
        partial=("run/*.safetensors", "run/record.json"),
    )


# --- Disks ------------------------------------------------------------------------------------------------------------


@contextmanager
def small_files(limit: int):
    """No file may grow beyond so many bytes: as on a full disk, every write after that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody():
    """Without the rights of root, for whom no folder is read-only."""
    if os.geteuid():
        yield
        return
    Image.init()  # what Python still has to read, before it cannot
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def writing_case(rng, work: Path) -> Case:
    """One of the commands that write, over a file that is there or to a new one."""
    (work / "net.safetensors").write_bytes(checkpoint())
    (work / "fer2013.csv").write_bytes(table("csv"))
    command = pick(rng, ("train", "resume", "data", "evaluate", "inspect", "shrink"))
    if command == "resume":
        return resume_case(work / "run")
    net, out = work / "net.safetensors", work / ("out.safetensors" if command == "shrink" else "out.json")
    argv = {
        "train": [*SMOKE, "--epochs", 1, "--out", work / "run"],
        "data": ["data", "--data", work / "fer2013.csv", "--out", out],
        "evaluate": ["evaluate", "--data", FEW, "--checkpoint", net, "--out", out],
        "inspect": ["inspect", "--data", FEW, "--checkpoint", net, "--faces", 1, "--out", out],
        "shrink": ["shrink", net, "--out", out],
    }[command]
    if rng.integers(2) and command != "train":
        out.write_text("kept")
    writes = ("run/*", "out.*", "cache/fer2013-*.npy")
    return Case(argv, names=(str(out), str(work / "run"), str(work)), writes=writes, around=small_counts)


@kind("disk")
def disk_full(rng, work):
    """a disk that is full after so many bytes of a file, for every command that writes"""
    case = writing_case(rng, work)
    limit, inner = int(10 ** rng.uniform(0, 5.5)), case.around

    @contextmanager
    def around():
        with inner(), small_files(limit):
            yield

    # An epoch's best network can be whole and new, and its state the old one: then the epoch is trained again.
    return replace(case, around=around, partial=("run/best.safetensors", "run/last.safetensors", "cache/fer2013-*.npy"))


@kind("disk")
def not_permitted(rng, work):
    """a folder or file without the permission to write or to read it"""
    case = writing_case(rng, work)
    (work / "run").mkdir(exist_ok=True)
    (work / "cache").mkdir(exist_ok=True)
    if os.geteuid() == 0:
        for path in (work, *work.rglob("*")):
            os.chown(path, 65534, 65534)
    victims = [work, work / "run", work / "cache", *(p for p in work.rglob("*") if p.is_file())]
    victim = pick(rng, victims)
    victim.chmod(0o500 if victim.is_dir() and rng.integers(3) else 0)
    inner = case.around

    @contextmanager
    def around():
        with inner(), as_nobody():
            try:
                yield
            finally:
                victim.chmod(0o700)

    return replace(case, around=around, partial=("cache/fer2013-*.npy",), valid=lambda printed: True)


@kind("disk", slow=4)
def disk_of_its_own(rng, work):
    """a real file system of 8 to 900 kB, made for the test, that runs full (needs root)"""
    size = int(10 ** rng.uniform(0.9, 2.95))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 400)}k", "faults", work], check=True)
    case = writing_case(rng, work)
    free = os.statvfs(work).f_bavail * os.statvfs(work).f_bsize
    (work / "ballast").write_bytes(b"0" * max(0, free - 1000 * size))
    return replace(case, partial=("run/best.safetensors", "run/last.safetensors", "cache/fer2013-*.npy"))


def can_mount() -> bool:
    """May this user make file systems?"""
    with tempfile.TemporaryDirectory() as place:
        made = (
            shutil.which("mount")
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=100k", "faults", place], capture_output=True
            ).returncode
        )
        return bool(made) and not subprocess.run(["umount", place]).returncode


@kind("disk", slow=4)
def output_closed(rng, work):
    """standard output that is a full disk, or a pipe that nobody reads"""
    (work / "net.safetensors").write_bytes(checkpoint())
    (work / "face.png").write_bytes(picture())
    argv = ["predict", work / "face.png", "--checkpoint", work / "net.safetensors"]

    def call():
        command = [sys.executable, "-m", "mifad_lite", *map(str, argv)]
        if rng.integers(2):
            out = os.open("/dev/full", os.O_WRONLY)
        else:
            read, out = os.pipe()
            os.close(read)
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
        os.close(out)
        return done.returncode, "", done.stderr

    return Case(argv, names=("output",), must="refused", call=call)


# --- Bombs ------------------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
import mifad_lite.__main__ as cli
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
code = cli.main(sys.argv[1:])
print((peak() - before) / 1024)
sys.exit(code)
"""
ROOM = 300  # MB that reading a bomb may take; it unpacks to 1,000


def bomb(form: str, content: bytes, size: int = 10**9) -> bytes:
    """So many bytes of repeated content, packed, made piece by piece."""
    piece = content * max(1, 2**20 // len(content))
    head = b"emotion,pixels,Usage\n"
    with io.BytesIO() as buffer:
        if form == "zip":
            archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            file = archive.open("fer2013.csv", "w", force_zip64=True)
        else:
            archive = io.BytesIO()
            packer = gzip.GzipFile if form == "gz" else lzma.LZMAFile
            file = packer(buffer, "wb", preset=0) if form == "xz" else packer(None, "wb", 1, buffer)
        with archive, file:
            file.write(head)
            for _ in range(size // len(piece)):
                file.write(piece)
        return buffer.getvalue()


@kind("data", slow=4)
def table_bomb(rng, work):
    """a .gz, .zip or .xz of a few megabytes that unpacks to a gigabyte"""
    form = pick(rng, ("gz", "zip", "xz"))
    content = pick(rng, (b"\0", b"\n", b"1 ", b"0," + b"7 " * 2304 + b",Training\n", b"0,1,Training\n"))
    path = work / f"fer2013.csv.{form}"
    path.write_bytes(bomb(form, content))

    def call():
        code, out, err = program([sys.executable, "-c", MEASURED, "data", "--data", path])
        peak = float(out.splitlines()[-1])
        return code, out, err if peak < ROOM else f"{err}{peak:.0f} MB were taken"

    return Case(["data"], names=(str(path),), must="refused", call=call)


# --- Signals ----------------------------------------------------------------------------------------------------------


GRID = ["ablate", "--data", "drawn:100,public=35,private=7", "--epochs", 1, "--table", "fusion", "--workers", 2]


def commands(work: Path) -> dict[str, list]:
    """Commands to interrupt, each some seconds long."""
    return {
        "train": [
            "train",
            "--profile",
            "smoke",
            "--data",
            "drawn:200,public=35,private=7",
            "--epochs",
            4,
            "--out",
            work / "run",
        ],
        "data": ["data", "--data", work / "fer2013.csv"],
        "ablate": [*GRID, "--runs", work / "run"],
        "evaluate": ["evaluate", "--data", "drawn:35,public=200,private=200", "--out", work / "out.json"],
        "predict": ["predict", work / "face.png"],
    }


@cache
def duration(command: str) -> float:
    """Seconds that a command takes here when nobody interrupts it."""
    with tempfile.TemporaryDirectory() as place:
        work = prepared(Path(place))
        began = time.perf_counter()
        program([sys.executable, "-m", "mifad_lite", *commands(work)[command]], env=os.environ | {"MIFAD_CACHE": place})
        return time.perf_counter() - began


def prepared(work: Path) -> Path:
    (work / "face.png").write_bytes(picture())
    (work / "fer2013.csv").write_bytes(table("csv") + "".join(rows()).encode() * 60)
    return work


@kind("signals", slow=1)
def interrupted(rng, work):
    """Ctrl-C (SIGINT) or SIGTERM at any moment of train, data, ablate, evaluate or predict, imports included"""
    command, sent = (
        pick(rng, ("train", "train", "data", "ablate", "evaluate", "predict")),
        pick(rng, (signal.SIGINT, signal.SIGTERM)),
    )
    prepared(work)
    argv = commands(work)[command]

    def call():
        delay = rng.uniform(0, 1.05 * duration(command))
        process = subprocess.Popen(
            [sys.executable, "-m", "mifad_lite", *map(str, argv)],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            # A terminal sends Ctrl-C to all processes of a command, a scheduler ends the first one.
            os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
            out, err = process.communicate()
        code = process.returncode
        if command == "data" and code == 1 and "not the published" in err:
            code, err = 0, ""  # it was done: more faces than FER2013 has
        if code == -sent and not err or "Traceback" in err and "mifad_lite" not in err:
            return "before_start", out, err
        return code, out, err

    writes = ("run/*", "out.json", "cache/fer2013-*.npy")
    return Case(argv, names=("stopped",), call=call, writes=writes, partial=writes)


# --- The record -------------------------------------------------------------------------------------------------------


def tally(draws: int, slow: int, seed: int, log: Callable[[str], None] = print) -> dict:
    """Draw cases of every kind: -> counts of the outcomes, and the reasons of all that are defects."""
    kinds, defects = {}, []
    for name, row in KINDS.items():
        if name == "disk_of_its_own" and not can_mount():
            log(f"{name}: skipped, no file system can be made here")
            continue
        began, counts = time.perf_counter(), dict.fromkeys(OUTCOMES, 0)
        for draw in range(slow // row.slow if row.slow else draws):
            result, reason = outcome(row, seed * 1_000_003 + draw)
            counts[result] += 1
            if result in DEFECTS:
                defects.append({"kind": name, "seed": seed * 1_000_003 + draw, "outcome": result, "reason": reason})
                log(f"{name}, seed {seed * 1_000_003 + draw}: {result}: {reason}")
        kinds[name] = {"hits": row.hits, "what": row.what, "tried": sum(counts.values()), **counts}
        log(f"{name}: {', '.join(f'{n} {k}' for k, n in counts.items() if n)}; {time.perf_counter() - began:.0f} s")
    return {"kinds": kinds, "defects": defects}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Feed mifad_lite what it should refuse, and count what it does.")
    parser.add_argument("--draws", type=int, default=200, help="cases of each kind")
    parser.add_argument("--slow", type=int, default=40, help="cases of a kind that takes seconds, or a part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, help="these kinds alone")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.set_defaults(command="faults")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    for name in set(KINDS) - set(args.only or KINDS):
        del KINDS[name]
    began = time.perf_counter()
    found = tally(args.draws, args.slow, args.seed, lambda line: print(line, flush=True))
    if args.out:
        content = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        record = {"kind": "faults", **provenance("the table of faults", content), "seed": args.seed}
        record |= {"draws": args.draws, "slow": args.slow, "seconds": round(time.perf_counter() - began, 1)}
        write_record(args.out, record | {"outcomes": OUTCOMES, **found})
    return 1 if found["defects"] else 0


if __name__ == "__main__":
    sys.exit(main())
