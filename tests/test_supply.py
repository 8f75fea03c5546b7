"""The locks hold what the requirements ask for, the page of dependencies says why, the tool notices what is wrong."""

import ast
import datetime
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("supply", ROOT / ".ci/supply.py")
supply = importlib.util.module_from_spec(spec)
spec.loader.exec_module(supply)

HASH = "0" * 64
DAY = datetime.date(2026, 6, 1)
PINNED = re.compile(r"(?m)^([\w.-]+)==(\S+)$")
FAMILIES = re.compile(r"MIT-CMU|MIT|BSD|Apache|MPL|Python Software Foundation|Public Domain", re.IGNORECASE)


def pins(file):
    return {supply.normal(name): version for name, version in PINNED.findall((ROOT / file).read_text("utf8"))}


def plain(version):
    return version.split("+")[0]  # torch's build for processors is the same release


@pytest.fixture(scope="module")
def tables():
    """{heading: {normal name: (name, why, where, licence)}} of the page's tables."""
    parts = re.split(r"(?m)^## (.+)$", (ROOT / "book/dependencies.md").read_text("utf8"))
    found = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        rows = re.findall(r"(?m)^\| `([^`]+)` \| (.+?) \| `([^`]+)` \| (.+?) \|$", text)
        assert len(rows) == max(0, len(re.findall(r"(?m)^\|", text)) - 2), f"{heading}: a row of another form"
        if rows:
            found[heading] = {supply.normal(row[0]): row for row in rows}
            assert len(found[heading]) == len(rows), f"{heading}: a package twice"
    return found


# The locks


@pytest.mark.parametrize(
    ("file", "locks"),
    [
        ("requirements.txt", ["lock.txt"]),
        ("book/classroom/requirements.txt", ["lock.txt", "lock-classroom.txt"]),
        (".ci/tools.txt", ["lock-tools.txt"]),
    ],
)
def test_locks_hold_every_pin(file, locks):
    locked = supply.versions(*(ROOT / ".ci" / lock for lock in locks))
    asked = pins(file)
    assert asked
    assert {name: plain(locked.get(name, "absent")) for name in asked} == asked


def test_locks_name_no_place_and_nothing_twice():
    for path in (supply.LOCK, supply.CLASSROOM, supply.TOOLS):
        text = path.read_text("utf8")
        assert all(digests for _, digests in supply.read_lock(path).values())
        assert not re.search(r"://|file:|/tmp|--(?:extra-)?index|--find-links", text), path.name
    assert not supply.read_lock(supply.LOCK).keys() & supply.read_lock(supply.CLASSROOM).keys()
    assert "mifad-lite" not in supply.read_lock(supply.LOCK)


def test_locks_have_a_reason_for_every_entry():
    """uv writes who asked for an entry: each is a requirements file or another entry."""
    locked = supply.versions(supply.LOCK, supply.CLASSROOM)
    for path in (supply.LOCK, supply.CLASSROOM):
        entries = re.split(r"(?m)^(?=\w)", path.read_text("utf8"))[1:]
        for entry in entries:
            asking = re.findall(r"^ +# +(?:via )?(?!via$)(.+)$", entry, re.MULTILINE)
            assert asking, entry.splitlines()[0]
            for who in asking:
                if not who.startswith(("-r ", "-c ")) and "mifad-lite" not in who:
                    assert supply.normal(who) in locked, who


@pytest.mark.skipif(not os.environ.get("MIFAD_LOCKED"), reason="not an environment made from the lock (see .ci/run)")
def test_this_environment_is_the_locked_one():
    """All that the project's metadata ask for, followed from one distribution to the next."""
    locked, seen, todo = supply.versions(supply.LOCK, supply.CLASSROOM), set(), [("mifad-lite", ("book", "test"))]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in supply.OURS:
            assert metadata.version(name) == locked.get(name), name
        for needed in map(Requirement, metadata.requires(name) or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((supply.normal(needed.name), tuple(sorted(needed.extras))))
    assert {name for name, _ in seen} >= pins("requirements.txt").keys() - {"setuptools"}


# The tool


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("numpy==2.4.6", "is not name==version with sha256"),
        (f"numpy>=2 --hash=sha256:{HASH}", "is not name==version with sha256"),
        ("numpy==2.4.6 --hash=md5:00", "is not name==version with sha256"),
        ("numpy @ https://example.org/numpy.whl", "is not name==version with sha256"),
        (f"-e . --hash=sha256:{HASH}", "is not name==version with sha256"),
        (f"a.b==1 --hash=sha256:{HASH}\na-b==1 --hash=sha256:{HASH}", "names a-b twice"),
    ],
)
def test_a_lock_with_less_than_a_hashed_version_is_refused(tmp_path, line, said):
    (tmp_path / "lock.txt").write_text(line + "\n")
    with pytest.raises(supply.SupplyError, match=re.escape(said)):
        supply.read_lock(tmp_path / "lock.txt")


def test_differences_are_named():
    locked = {"numpy": "2", "torch": "2.13.0+cpu", "tqdm": "4"}
    assert (
        supply.differences({"NumPy": "2", "torch": "2.13.0+cpu", "tqdm": "4", "pip": "9", "mifad_lite": "0"}, locked)
        == []
    )
    assert supply.differences({"numpy": "3", "torch": "2.13.0", "left_pad": "1"}, locked) == [
        "left-pad 1 is in no lock",
        "numpy 3, locked 2",
        "torch 2.13.0, locked 2.13.0+cpu",
        "tqdm 4 is not installed",
    ]


def test_check_asks_the_environment(tmp_path):
    (tmp_path / "lock.txt").write_text(f"nowhere-to-be-found==1 --hash=sha256:{HASH}\n")
    with pytest.raises(supply.SupplyError) as caught:
        supply.check([tmp_path / "lock.txt"])
    assert "nowhere-to-be-found 1 is not installed" in str(caught.value)
    assert f"numpy {metadata.version('numpy')} is in no lock" in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "meant"),
    [
        (((3, 11, 5), "CPython", "Linux", "x86_64"), True),
        (((3, 11, 15), "CPython", "Linux", "x86_64"), True),
        (((3, 11, 2), "CPython", "Linux", "x86_64"), False),
        (((3, 12, 0), "CPython", "Linux", "x86_64"), False),
        (((3, 11, 7), "PyPy", "Linux", "x86_64"), False),
        (((3, 11, 7), "CPython", "Darwin", "x86_64"), False),
        (((3, 11, 7), "CPython", "Linux", "aarch64"), False),
    ],
)
def test_lock_is_for_one_kind_of_machine(machine, meant):
    assert supply.lock_is_for(*machine) is meant


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that is all that pip sees, with one small wheel; pip installs into another. Returns the wheel's hash."""
    wheel = tmp_path / "shelf/little_thing-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "little_thing-1.0.dist-info"
    files = {
        "little_thing.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: little-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": wheel.parent, "TARGET": tmp_path / "target"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.delenv("MIFAD_REQUIRE_LOCK", raising=False)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_install_takes_the_locked_file_only(shelf, tmp_path, monkeypatch, capfd):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"little-thing==1.0 --hash=sha256:{HASH}\n")
    with pytest.raises(supply.SupplyError, match="pip could not install"):
        supply.install(lock)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().out
    assert not (tmp_path / "target").exists()

    lock.write_text(f"little-thing==1.1 --hash=sha256:{shelf}\n")
    assert supply.install(lock) is None, "the index serves another version"
    assert not (tmp_path / "target").exists()

    lock.write_text(f"little-thing==1.0 --hash=sha256:{shelf}\n")
    assert supply.install(lock)
    assert (tmp_path / "target/little_thing.py").is_file()


def test_another_machine_is_told(monkeypatch, capsys):
    monkeypatch.setattr(supply, "here", lambda: ((3, 12, 1), "CPython", "Linux", "x86_64"))
    monkeypatch.delenv("MIFAD_REQUIRE_LOCK", raising=False)
    assert supply.main(["install", str(supply.LOCK)]) == supply.NOT_LOCKED
    assert "this is 3.12.1 CPython Linux x86_64" in capsys.readouterr().out
    monkeypatch.setenv("MIFAD_REQUIRE_LOCK", "1")
    assert supply.main(["install", str(supply.LOCK)]) == 1


def test_workflow_requires_the_lock_and_a_clean_audit():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf8"))["jobs"]
    assert jobs["check"]["env"]["MIFAD_REQUIRE_LOCK"]
    setup = next(
        step["with"]["python-version"] for step in jobs["check"]["steps"] if "setup-python" in step.get("uses", "")
    )
    pinned = re.search(r"\|\| '(\d+)\.(\d+)' \}\}$", setup)
    assert supply.lock_is_for((*map(int, pinned.groups()), 99), "CPython", "Linux", "x86_64")
    audit = jobs["audit"]
    assert "if" not in audit
    assert "continue-on-error" not in json.dumps(audit)
    assert [step["run"] for step in audit["steps"] if "run" in step] == ["python .ci/supply.py audit"]


ABSENT, CHANGED = "ERROR: No matching distribution found for a==1", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM"


@pytest.mark.parametrize(
    ("code", "said", "required", "verdict"),
    [
        (0, "Successfully installed a-1", True, True),
        (1, ABSENT, False, None),
        (1, ABSENT, True, "does not serve all of lock.txt, which is required"),
        (1, CHANGED, False, "could not install lock.txt"),
        (1, f"{ABSENT}\n{CHANGED}", False, "could not install lock.txt"),
        (1, "ERROR: no space left on device", False, "could not install lock.txt"),
    ],
)
def test_only_an_absent_file_is_forgiven(code, said, required, verdict):
    if isinstance(verdict, str):
        with pytest.raises(supply.SupplyError, match=verdict):
            supply.outcome("lock.txt", code, said, required)
    else:
        assert supply.outcome("lock.txt", code, said, required) is verdict


def finding(*names, package="pillow", fixed=("13.0.1",)):
    return {
        "name": package,
        "version": "13.0.0",
        "vulns": [{"id": names[0], "aliases": names[1:], "fix_versions": fixed}],
    }


def explained(name, package="pillow", until=DAY):
    return {"id": name, "package": package, "reason": "not reached", "until": until}


@pytest.mark.parametrize(
    ("answer", "exceptions", "said"),
    [
        ([{"name": "pillow", "version": "13.0.0", "vulns": []}], [], []),
        ([finding("GHSA-1")], [], ["pillow 13.0.0: GHSA-1, fixed in 13.0.1"]),
        ([finding("GHSA-1", fixed=())], [], ["pillow 13.0.0: GHSA-1, fixed in no release yet"]),
        ([finding("GHSA-1")], [explained("GHSA-1")], []),
        ([finding("GHSA-1", "CVE-2")], [explained("CVE-2")], []),
        (
            [finding("GHSA-1")],
            [explained("GHSA-1", until=DAY - datetime.timedelta(1))],
            ["pillow 13.0.0: GHSA-1, fixed in 13.0.1; its exception ran out"],
        ),
        (
            [finding("GHSA-1")],
            [explained("GHSA-1", package="numpy")],
            ["pillow 13.0.0: GHSA-1, fixed in 13.0.1", "the exception GHSA-1 (numpy) matches no finding"],
        ),
        ([{"name": "x", "skip_reason": "not found"}], [], ["x was not looked up: not found"]),
    ],
)
def test_audit_judges(answer, exceptions, said):
    assert supply.judge(answer, exceptions, DAY) == said


def test_audit_misses_what_the_answer_leaves_out():
    assert supply.unanswered({"numpy": "2", "PyYAML".lower(): "6"}, [{"name": "PyYAML"}]) == ["numpy"]


def test_audit_without_an_answer_is_no_clean_audit(tmp_path):
    silent = tmp_path / "pip-audit"
    silent.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 1\n")
    silent.chmod(0o755)
    with pytest.raises(supply.SupplyError, match=r"nothing was audited.*no route to host"):
        supply.report_on(tmp_path, {"numpy": "2"})


def test_audit_exceptions_are_whole(tmp_path):
    assert isinstance(supply.read_exceptions(), list)
    whole = '[[exception]]\nid = "a"\npackage = "b"\nreason = "c"\nuntil = 2027-01-31\n'
    (tmp_path / "e.toml").write_text(whole)
    assert supply.read_exceptions(tmp_path / "e.toml")[0]["until"] == datetime.date(2027, 1, 31)
    for broken in (whole.replace('"c"', '" "'), whole.replace("2027-01-31", '"soon"'), whole.replace('id = "a"\n', "")):
        (tmp_path / "e.toml").write_text(broken)
        with pytest.raises(supply.SupplyError, match="needs id, package, reason and until"):
            supply.read_exceptions(tmp_path / "e.toml")


def test_bill_lists_every_vendored_file():
    listed = [(p["name"], p["hashes"][0]["content"]) for c in supply.vendored() for p in c["components"]]
    there = {f.relative_to(supply.VENDOR).as_posix(): f for f in supply.VENDOR.rglob("*") if f.is_file()}
    texts = {name for name in there if "LICENSE" in name} | {"README.md", "SHA256SUMS"}
    assert dict(listed).keys() | texts == there.keys()
    assert len(listed) == len(dict(listed))
    for name, digest in listed:
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest, name


def test_vendored_files_are_those_of_the_sums():
    sums = dict(reversed(line.split("  ")) for line in (supply.VENDOR / "SHA256SUMS").read_text().splitlines())
    there = {f.relative_to(supply.VENDOR).as_posix(): f for f in supply.VENDOR.rglob("*") if f.is_file()}
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in there.items()}
    assert sums == {name: digest for name, digest in hashes.items() if name not in ("README.md", "SHA256SUMS")}


# The page


def test_page_has_a_row_for_every_dependency(tables):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    names = {"The package": project["dependencies"]}
    names |= {
        "The book": project["optional-dependencies"]["book"],
        "The export": project["optional-dependencies"]["export"],
        "The tests": project["optional-dependencies"]["test"],
    }
    for heading, asked in names.items():
        asked = {supply.normal(Requirement(line).name) for line in asked} - supply.OURS
        assert tables[heading].keys() == asked, heading
    listed = pins("requirements.txt") | pins("book/classroom/requirements.txt")
    shown = [name for heading in [*names, "Held still", "The classroom"] for name in tables[heading]]
    assert sorted(shown) == sorted(listed)
    finder = {"tflite", "ai-edge-litert"}  # what .ci/refresh-vendor and .ci/reference-finder.py ask for
    assert tables["Tools for upkeep"].keys() == pins(".ci/tools.txt").keys() | finder
    vendored = {c["purl"].removeprefix("pkg:npm/").replace("%40", "@").rsplit("@", 1)[0] for c in supply.vendored()}
    assert {row[0] for row in tables["In the pages"].values()} == vendored


def test_page_names_files_that_use_the_package(tables):
    imported = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            imported.setdefault(supply.normal(name), set()).add(module)
    imported["math-core"], imported["reveal-js"] = {"math_core"}, {"reveal"}
    for heading, rows in tables.items():
        for name, (shown, _, where, _) in rows.items():
            if heading == "Held still":
                continue
            text = (ROOT / where).read_text("utf8")
            words = {shown, shown.rpartition("/")[2], shown.replace("-", "_"), *imported.get(name, ())}
            assert any(re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", text) for w in words), f"{shown} in {where}"


def test_page_names_what_brings_the_others_along(tables):
    """As the lock's own comments say."""
    text = supply.LOCK.read_text("utf8") + supply.CLASSROOM.read_text("utf8")
    entries = {supply.normal(e.split("==")[0]): e for e in re.split(r"(?m)^(?=\w)", text)[1:]}
    for name, (_, _, who, _) in tables["Held still"].items():
        assert re.search(rf"(?m)^ +# +(?:via )?{re.escape(supply.normal(who))}$", entries[name]), f"{name} by {who}"


def test_page_has_every_module_that_we_import(tables):
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in files.stdout.splitlines() if (ROOT / name).is_file()]
    ours = {"mifad_lite", *(path.stem for path in files), *(path.parent.name for path in files)}
    shown = {name for rows in tables.values() for name in rows}
    owners = metadata.packages_distributions() | {"math_core": ["math-core"], "cyclonedx": ["cyclonedx-bom"]}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for module in {name.split(".")[0] for name in names} - ours - set(sys.stdlib_module_names):
                packages = {supply.normal(name) for name in owners.get(module, [module])}
                assert packages & shown, f"{path.name} imports {module}, which no row explains"


def test_page_gives_the_licence_of_the_metadata(tables):
    pinned, compared = pins("requirements.txt"), 0
    for rows in tables.values():
        for name, (shown, *_, licence) in rows.items():
            if name not in pinned or plain(metadata.version(name)) != pinned[name]:
                continue
            meta = metadata.metadata(name)
            kinds = [c for c in meta.get_all("Classifier", []) if c.startswith("License")]
            said = meta.get("License-Expression") or " ".join(kinds) or meta.get("License") or ""
            stated, given = ({f.lower() for f in FAMILIES.findall(text)} for text in (licence, said))
            assert stated, shown
            assert stated <= given, f"{shown}: {licence}, its metadata {said[:100]}"
            compared += 1
    assert compared or not os.environ.get("MIFAD_LOCKED")
