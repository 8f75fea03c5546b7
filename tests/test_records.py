"""Records are written whole or not at all, hold no NaN, and say where a number comes from."""

import json
import math
import os
import platform
import re
import subprocess
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from mifad_lite import records
from mifad_lite.records import device_name, git_commit, provenance, read_record, write_atomically, write_record

RECORD = {"kind": "test", "accuracy": 0.1 + 0.2, "per_class": {"happy": None}, "name": "Ångström", "counts": [[1], []]}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "record.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    assert json.loads(path.read_bytes()) == RECORD
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_is_refused_before_the_file_is_touched(bad, tmp_path):
    path = tmp_path / "record.json"
    write_record(path, RECORD)
    with pytest.raises(ValueError, match=rf"record.json was not written: epochs\[1\].loss = {bad} is not JSON"):
        write_record(path, {"kind": "test", "epochs": [{"loss": 0.5}, {"loss": bad}]})
    with pytest.raises(ValueError, match=f"loss = {bad} is not JSON compliant"):
        write_record(tmp_path / "other" / "record.json", {"loss": bad})
    assert read_record(path) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_writer_that_fails_midway_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def writer(partial):
        partial.write_text("ne")
        assert partial.parent == tmp_path  # another folder could be another disk, where a rename is a copy
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, writer)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path):
    """Renaming over a device makes it a file: as root, `--out /dev/null` would break the machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"{name} was not written: something stands there"):
            write_record(tmp_path / name, {})
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"accuracy 67.10 %"])
def test_a_bad_record_gets_one_sentence(content, tmp_path):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="record") as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_name_means_a_committed_record(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path / "results" / "cpu_run.json", RECORD)
    write_record(tmp_path / "cpu_run", {})
    assert read_record("cpu_run") == RECORD
    assert read_record("./cpu_run") == {}


def test_provenance_tells_what_a_number_needs():
    origin = provenance("drawn faces", "ab12")
    assert origin["commit"] == git_commit()
    assert origin["data"] == {"name": "drawn faces", "sha256": "ab12"}
    assert f", {torch.get_num_threads()} thread" in origin["device"]
    assert origin["versions"] == {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    age = datetime.now(UTC) - datetime.fromisoformat(origin["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    json.dumps(origin)


def test_a_gpu_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device}")
    assert device_name("cuda:1") == "card cuda:1"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a folder mifad_lite beside a folder book; `records` believes that it lives there."""
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "checkout"
    for folder in ("mifad_lite", "book"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("one\n")
    monkeypatch.setattr(records, "__file__", str(root / "mifad_lite" / "records.py"))
    return root


def git(root, *args):
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *args], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_code(checkout, monkeypatch):
    assert git_commit() == "unknown"  # no repository
    git(checkout, "init", "-q")
    assert git_commit() == "unknown"  # no commit
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert git_commit() == commit

    (checkout / "book" / "file").write_text("two\n")
    assert git_commit() == commit  # the book is not the code
    (checkout / "mifad_lite" / "file").write_text("two\n")
    assert git_commit() == commit + "+changes"
    git(checkout, "checkout", "-q", ".")
    assert git_commit() == commit
    (checkout / "mifad_lite" / "new").touch()
    assert git_commit() == commit + "+changes"

    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown"  # no git


@pytest.mark.parametrize(("count", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_one_thread_is_one(count, words, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    assert words in records.device_name("cpu").split(", ")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users to change to here")
@pytest.mark.parametrize("below", ["record.json", "new/folder/record.json"])
def test_a_folder_that_may_not_be_written_to_is_noticed_before_the_work(below, tmp_path):
    shut, root = tmp_path / "shut", os.geteuid() == 0
    shut.mkdir()
    for folder in (shut, *shut.parents):
        if root and folder.owner() == "root" and "pytest" in str(folder):
            folder.chmod(folder.stat().st_mode | 0o555)  # so that nobody gets there
    records.check_place(shut / below)
    shut.chmod(0o555)
    try:
        if root:  # who may write everywhere
            os.seteuid(65534)
        with pytest.raises(
            OSError, match=rf"{re.escape(str(shut / below))} was not written: Permission denied \(.*shut\)$"
        ):
            records.check_place(shut / below)
        with pytest.raises(OSError, match="was not written: Permission denied"):
            write_record(shut / below, RECORD)
    finally:
        if root:
            os.seteuid(0)
        shut.chmod(0o755)
    write_record(shut / below, RECORD)
    assert read_record(shut / below) == RECORD
