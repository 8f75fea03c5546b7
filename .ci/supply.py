#!/usr/bin/env python3
"""What this project installs: locked with hashes, checked, audited, and listed as an SBOM.

    .ci/supply.py lock [--upgrade]    write lock*.txt again; without --upgrade a version stays where it may
    .ci/supply.py install LOCK        install a lock into the environment whose Python runs this
    .ci/supply.py check LOCK...       compare that environment with the locks: nothing else, nothing less
    .ci/supply.py audit               look every locked package up among the known vulnerabilities (needs the network)
    .ci/supply.py sbom FILE           write a CycloneDX list of all locked packages and of the scripts in the pages

Needs Python 3.11 and nothing else: uv, pip-audit and cyclonedx-bom come from lock-tools.txt into an environment of
their own, which is removed afterwards. `install` ends with 3 when the lock is not meant for this machine.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci"
VENDOR = ROOT / "book/_static/vendor"
LOCK, CLASSROOM, TOOLS = CI / "lock.txt", CI / "lock-classroom.txt", CI / "lock-tools.txt"
LOWEST = (3, 11, 5)  # soupsieve 4 asks for it
NOT_LOCKED = 3
LOCKED_ON = "CPython 3.11 (3.11.5 or newer) on Linux, x86-64"
OURS = {"mifad-lite", "pip"}  # the project itself, and what every environment begins with
HEADERS = {
    LOCK: f"requirements.txt, and all that it brings along, for {LOCKED_ON}.",
    CLASSROOM: "What book/classroom/requirements.txt adds to lock.txt, for the same machines.",
    TOOLS: "tools.txt, and all that it brings along, for CPython 3.11 or newer.",
}
LICENCE_IDS = {"Apache-2.0": "Apache-2.0", "BSD-3-Clause": "BSD-3-Clause", "MIT": "MIT", "SIL OFL 1.1": "OFL-1.1"}


class SupplyError(Exception):
    """Something is not as it should be; the message is one sentence for the person who ran the command."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """{name: (version, sha256 hashes)} of a lock. Raises SupplyError at a line that is no exact, hashed version."""
    text = re.sub(r"(?m)^\s*#.*\n?", "", path.read_text("utf8")).replace("\\\n", " ")
    entries = {}
    for line in filter(str.strip, text.splitlines()):
        found = re.fullmatch(r"([\w.-]+)==([\w.+!]+)(?: ;[^#]*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        if not found:
            raise SupplyError(f"{path.name}: {line[:80]!r} is not name==version with sha256 hashes; make it again")
        name = normal(found[1])
        if name in entries:
            raise SupplyError(f"{path.name} names {name} twice; make it again")
        entries[name] = (found[2], re.findall(r"[0-9a-f]{64}", found[3]))
    return entries


def versions(*paths: Path) -> dict[str, str]:
    """{name: version} of all these locks. Raises SupplyError where two of them differ."""
    merged = {}
    for path in paths:
        for name, (version, _) in read_lock(path).items():
            if merged.setdefault(name, version) != version:
                raise SupplyError(f"the locks differ on {name}: {merged[name]} and {version}")
    return merged


def differences(installed: dict[str, str], locked: dict[str, str]) -> list[str]:
    """One line for each distribution that is not as locked."""
    installed = {normal(name): version for name, version in installed.items() if normal(name) not in OURS}
    lines = [f"{name} {installed[name]} is in no lock" for name in installed.keys() - locked.keys()]
    lines += [f"{name} {locked[name]} is not installed" for name in locked.keys() - installed.keys()]
    shared = installed.keys() & locked.keys()
    lines += [f"{n} {installed[n]}, locked {locked[n]}" for n in shared if installed[n] != locked[n]]
    return sorted(lines)


def check(locks: list[Path], python: str | Path = sys.executable) -> str:
    """One line that says how many distributions agree. Raises SupplyError with all that do not."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
    locked = versions(*locks)
    found = differences({item["name"]: item["version"] for item in json.loads(listed.stdout)}, locked)
    if found:
        raise SupplyError("this environment is not the locked one: " + "; ".join(found))
    return f"{len(locked)} distributions, each as locked"


def lock_is_for(version: tuple[int, int, int], implementation: str, system: str, machine: str) -> bool:
    """Whether lock.txt is meant for such a Python on such a machine."""
    return LOWEST <= version < (3, 12) and (implementation, system, machine) == ("CPython", "Linux", "x86_64")


def here() -> tuple:
    """What lock_is_for asks, of the Python that runs this."""
    return sys.version_info[:3], platform.python_implementation(), platform.system(), platform.machine()


def machine() -> str:
    version, *rest = here()
    return " ".join([".".join(map(str, version)), *rest])


def outcome(lock: str, code: int, said: str, required: bool) -> bool | None:
    """Of an install that ended with `code` after it `said` so much: True for done, None for a file that no index has.

    A file that is there but has another hash raises SupplyError always. One that is not there does so where the lock is
    `required`: an index that serves less than everything must not keep others from testing.
    """
    if code == 0:
        return True
    if "No matching distribution found" not in said or "DO NOT MATCH THE HASHES" in said:
        raise SupplyError(f"pip could not install {lock}: its last lines say why")
    if required:
        raise SupplyError(
            f"the package index does not serve all of {lock}, which is required here (MIFAD_REQUIRE_LOCK)"
        )
    return None


def install(lock: Path, python: str | Path = sys.executable, required: bool | None = None) -> bool | None:
    """Install a lock with pip, which compares the hashes. Returns and raises as `outcome`."""
    read_lock(lock)
    required = bool(os.environ.get("MIFAD_REQUIRE_LOCK")) if required is None else required
    command = [python, "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", "-r", lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        said = ""
        for line in pip.stdout:
            print(line, end="", flush=True)
            said += line
    return outcome(lock.name, pip.returncode, said, required)


@contextmanager
def tools():
    """The bin folder of a new environment with lock-tools.txt."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin/python"
        command = [python, "-m", "pip", "install", "-q", "--require-hashes", "--only-binary=:all:", "-r", TOOLS]
        subprocess.run(command, check=True)
        yield python.parent


def write_locks(upgrade: bool) -> None:
    """Resolve again and write the three locks; versions stay as they are where the requirements allow it."""
    settings = os.environ | {
        f"UV_{k}": os.environ[f"PIP_{k}"] for k in ("FIND_LINKS", "EXTRA_INDEX_URL") if f"PIP_{k}" in os.environ
    }
    linux = ["--python-version", ".".join(map(str, LOWEST)), "--python-platform", "x86_64-manylinux_2_28"]
    anywhere = ["--universal", "--python-version", "3.11"]
    with tools() as programs, tempfile.TemporaryDirectory() as folder:
        for path, sources, where in (
            (LOCK, ["requirements.txt"], linux),
            (CLASSROOM, ["requirements.txt", "book/classroom/requirements.txt", "-c", Path(folder) / LOCK.name], linux),
            (TOOLS, [".ci/tools.txt"], anywhere),
        ):
            out = Path(folder) / path.name
            if path.exists() and not upgrade:  # what is there is what uv prefers
                out.write_text((LOCK.read_text("utf8") if path == CLASSROOM else "") + path.read_text("utf8"), "utf8")
            command = [programs / "uv", "pip", "compile", "-q", "--no-config", "--generate-hashes", "--no-header"]
            command += ["--no-emit-package", "mifad-lite", *where, "-o", out, *sources]
            subprocess.run([*command, *(["--upgrade"] if upgrade else [])], check=True, cwd=ROOT, env=settings)
        known = read_lock(Path(folder) / LOCK.name)
        if "+cpu" not in known["torch"][0]:
            raise SupplyError("no index or folder here serves a torch for processors: set PIP_EXTRA_INDEX_URL")
        for path, header in HEADERS.items():
            text = (Path(folder) / path.name).read_text("utf8")
            text = re.sub(r"(?m)^( +#.*?)/\S*/(lock\.txt)$", r"\1\2", text)
            if path == CLASSROOM:
                blocks = re.split(r"(?m)^(?=[\w])", text)
                text = "".join(block for block in blocks if normal(block.split("==")[0]) not in known)
            note = (
                "# torch is the build for processors: pip needs an index or a folder that has it.\n"
                if path == LOCK
                else ""
            )
            path.write_text(f"# {header}\n{note}# Made by `.ci/supply.py lock`, never by hand.\n{text}", "utf8")


def unanswered(asked: dict[str, str], answer: list[dict]) -> list[str]:
    """The packages that an answer leaves out."""
    return sorted(asked.keys() - {normal(item["name"]) for item in answer})


def judge(answer: list[dict], exceptions: list[dict], today: datetime.date) -> list[str]:
    """What is wrong: findings without a valid exception, packages that were skipped, exceptions for nothing."""
    problems, used = [], []
    for item in answer:
        if "skip_reason" in item:
            problems.append(f"{item['name']} was not looked up: {item['skip_reason']}")
        for flaw in item.get("vulns", []):
            names = {flaw["id"], *flaw.get("aliases", [])}
            matching = [e for e in exceptions if e["id"] in names and normal(e["package"]) == normal(item["name"])]
            used += matching
            if not any(e["until"] >= today for e in matching):
                fixed = ", ".join(flaw.get("fix_versions") or []) or "no release yet"
                lapsed = "; its exception ran out" if matching else ""
                problems.append(f"{item['name']} {item['version']}: {flaw['id']}, fixed in {fixed}{lapsed}")
    return problems + [
        f"the exception {e['id']} ({e['package']}) matches no finding" for e in exceptions if e not in used
    ]


def read_exceptions(path: Path = CI / "audit-exceptions.toml") -> list[dict]:
    """The explained findings. Raises SupplyError where one lacks its id, package, reason or day."""
    entries = tomllib.loads(path.read_text("utf8")).get("exception", [])
    for entry in entries:
        whole = set(entry) == {"id", "package", "reason", "until"} and isinstance(entry["until"], datetime.date)
        if not whole or not entry["reason"].strip():
            raise SupplyError(f"{path.name}: {entry} needs id, package, reason and until (a day, without quotes)")
    return entries


def report_on(programs: Path, asked: dict[str, str]) -> dict:
    """pip-audit's report on these versions, from the OSV database. Raises SupplyError when there is none."""
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "packages.txt", Path(folder) / "report.json"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in asked.items()))
        command = [programs / "pip-audit", "--disable-pip", "--no-deps", "-r", listed, "-s", "osv", "-f", "json"]
        done = subprocess.run([*command, "-o", out, "--progress-spinner=off"], capture_output=True, text=True)
        if done.returncode in (0, 1) and out.is_file() and out.stat().st_size:  # 1 when it found something
            return json.loads(out.read_text("utf8"))
    last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
    raise SupplyError(f"nothing was audited: pip-audit has no answer from its database ({last[:200]})")


def audit() -> str:
    """Look all locked packages up. Raises SupplyError at findings without an exception, or when there was no answer."""
    exceptions = read_exceptions()
    with tools() as programs:
        asked = [versions(LOCK, CLASSROOM), versions(TOOLS)]
        # +cpu is a build of the same source; the advisories know the release alone.
        asked = [{name: version.split("+")[0] for name, version in part.items()} for part in asked]
        answers = [report_on(programs, part)["dependencies"] for part in asked]
    missing = [f"{n} is not in the report" for a, r in zip(asked, answers, strict=True) for n in unanswered(a, r)]
    problems = missing + judge(sum(answers, []), exceptions, datetime.date.today())
    if problems:
        raise SupplyError("the audit is not clean:\n  " + "\n  ".join(problems))
    return f"{sum(map(len, asked))} packages looked up, {len(exceptions)} explained findings, no other"


def vendored() -> list[dict]:
    """The scripts and fonts in the pages, as CycloneDX components, from the table in their README and SHA256SUMS."""
    sums = {}
    for line in (VENDOR / "SHA256SUMS").read_text("utf8").splitlines():
        digest, name = line.split("  ")
        sums[name] = digest
    components = []
    for row in re.findall(r"(?m)^\| `(\w[\w-]*)/` \| (.+) \|$", (VENDOR / "README.md").read_text("utf8")):
        folder, (package, version, licence, taken, _) = row[0], row[1].split(" | ")
        package = package.strip("`")
        purl = f"pkg:npm/{package.replace('@', '%40')}@{version}"
        names = [Path(name).name for name in re.findall(r"`([^`]+)`", taken)]
        files = [name for name in sums if name.startswith(f"{folder}/") and Path(name).name in names]
        if "its `.woff2`" in taken:
            files += [name for name in sums if name.startswith(f"{folder}/") and name.endswith(".woff2")]
        parts = [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sums[name]}]}
            for name in sorted(files)
        ]
        group, _, name = package.rpartition("/")
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        component |= {"group": group} if group else {}
        component |= {"licenses": [{"license": {"id": LICENCE_IDS[licence.split(" (")[0]]}}], "components": parts}
        components.append(component)
    return components


def sbom(out: Path) -> str:
    """Write a CycloneDX file: the locked distributions with licence, hashes and what needs them, and the scripts."""
    if not lock_is_for(*here()):
        raise SupplyError("the SBOM describes the locked environment, which this machine cannot have: " + LOCKED_ON)
    if not out.parent.is_dir():
        raise SupplyError(f"{out.parent} is no folder")
    hashes = read_lock(LOCK) | read_lock(CLASSROOM)
    with tools() as programs, tempfile.TemporaryDirectory() as folder:
        python, draft = Path(folder) / "venv/bin/python", Path(folder) / "sbom.json"
        venv.create(Path(folder) / "venv", with_pip=True)
        for lock in (LOCK, CLASSROOM):
            install(lock, python, required=True)
        command = [programs / "cyclonedx-py", "environment", "--pyproject", ROOT / "pyproject.toml"]
        command += ["--output-reproducible", "--of", "JSON", "-o", draft, python]
        subprocess.run(command, check=True)
        bom = json.loads(draft.read_text("utf8"))
        bom["components"] = [item for item in bom["components"] if normal(item["name"]) not in OURS]
        for item in bom["components"]:
            version, digests = hashes.pop(normal(item["name"]))
            assert item["version"] == version, item
            kept = [{"alg": "SHA-256", "content": digest} for digest in digests]
            url = f"https://pypi.org/project/{item['name']}/{version}/"
            if "+" in version:
                url = "https://download.pytorch.org/whl/cpu/"  # such a build is not on PyPI
            source = {"type": "distribution", "url": url}
            comment = "any one of these files: built for different machines, or the source"
            item.setdefault("externalReferences", []).append(source | {"hashes": kept, "comment": comment})
        assert not hashes, hashes
        scripts = vendored()
        bom["components"] += scripts
        root = bom["metadata"]["component"]["bom-ref"]
        refs = {item["bom-ref"] for item in bom["components"]} | {root}
        bom["dependencies"] = [item for item in bom["dependencies"] if item["ref"] in refs]
        next(item for item in bom["dependencies"] if item["ref"] == root).setdefault("dependsOn", []).extend(
            item["bom-ref"] for item in scripts
        )
        draft.write_text(json.dumps(bom, indent=2, ensure_ascii=False) + "\n", "utf8")
        check_it = "import sys; from cyclonedx.validation.json import JsonStrictValidator as V; "
        check_it += "from cyclonedx.schema import SchemaVersion as S; "
        check_it += "sys.exit(str(V(S.from_version(sys.argv[2])).validate_str(open(sys.argv[1]).read()) or '') or 0)"
        subprocess.run([programs / "python", "-c", check_it, draft, bom["specVersion"]], check=True)
        out.write_bytes(draft.read_bytes())
    return f"{out}: {len(bom['components'])} components, valid CycloneDX {bom['specVersion']}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock").add_argument("--upgrade", action="store_true")
    commands.add_parser("install").add_argument("lock", type=Path)
    commands.add_parser("check").add_argument("locks", type=Path, nargs="+")
    commands.add_parser("audit")
    commands.add_parser("sbom").add_argument("file", type=Path)
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "install" and not lock_is_for(*here()):
            if os.environ.get("MIFAD_REQUIRE_LOCK"):
                raise SupplyError(
                    f"{asked.lock.name} is for {LOCKED_ON}, this is {machine()}: MIFAD_REQUIRE_LOCK is set"
                )
            print(f"Not locked: {asked.lock.name} is for {LOCKED_ON}, this is {machine()}")
            return NOT_LOCKED
        if asked.command == "install":
            if not install(asked.lock):
                print(f"Not locked: the package index here does not serve all of {asked.lock.name}")
                return NOT_LOCKED
            said = f"{asked.lock.name} is installed, hashes compared"
        else:
            said = {
                "lock": lambda: write_locks(asked.upgrade),
                "check": lambda: check(asked.locks),
                "audit": audit,
                "sbom": lambda: sbom(asked.file),
            }[asked.command]()
        print(said or "the locks are written")
    except (SupplyError, OSError) as problem:
        print(f"supply: {problem}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as problem:
        print(f"supply: {Path(problem.cmd[0]).name} failed: what it printed says why", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
