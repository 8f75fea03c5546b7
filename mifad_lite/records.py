"""Run records: small JSON files that commands write and the book reads. No number reaches the book another way."""

import contextlib
import errno
import json
import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

# Committed records: book/results in a checkout, and the same files inside an installed package.
RESULTS = next(
    (p for p in (Path(__file__).parents[1] / "book" / "results", Path(__file__).parent / "results") if p.is_dir()),
    Path("book/results"),
)


def provenance(data_name: str, data_sha256: str, device: str = "cpu") -> dict:
    """Commit, data hash, device, versions and date: what a reader needs to repeat a number."""
    return {
        "commit": git_commit(),
        "data": {"name": data_name, "sha256": data_sha256},
        "device": device_name(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit() -> str:
    """The commit of the package's own checkout, "+changes" where mifad_lite differs from it, "unknown" outside git."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device: str) -> str:
    """A GPU by its name, a CPU by its model, its core count and what speeds bfloat16 up."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {k.strip(): v.strip() for k, v in fields.items()}
        model = fields.get("model name", model)
        flags = ", ".join(f for f in ("amx_bf16", "avx512_bf16") if f in fields.get("flags", "").split())
    count = torch.get_num_threads()
    return f"{model}, {count} thread{'' if count == 1 else 's'}" + (f", {flags}" if flags else "")


def check_place(path: Path | str) -> None:
    """Raise, before the work for a file, the OSError that `write_atomically` would raise after it. Writes nothing."""
    path = Path(path)
    if path.exists() and not path.is_file():  # /dev/null would become a file, too
        raise OSError(f"{path} was not written: something stands there that is not a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OSError(f"{path} was not written: {above} is not a folder")
    effective = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if not os.access(above, os.W_OK | os.X_OK, **effective):
        raise OSError(f"{path} was not written: {os.strerror(errno.EACCES)} ({above})")


def write_atomically(path: Path | str, write) -> None:
    """Call `write(temporary path)`, then rename: a reader sees the old file or the new one, never half of one.

    Raises OSError with one sentence that names `path`: the disk is full, the folder may not be written to, or what
    stands there is a folder or a device.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} was not written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(path: Path | str) -> None:
    """Remove what `write_atomically` left beside `path` when its process was killed: a temporary file of a dead one."""
    for left in Path(path).parent.glob(f".{Path(path).name}.*"):
        number = left.name.rpartition(".")[2]
        if number.isdecimal() and os.name == "posix":  # elsewhere os.kill ends the process that it asks for
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                left.unlink(missing_ok=True)
            except OSError:
                continue  # it lives


def not_finite(value, name: str = "") -> str | None:
    """The first number of a record that is NaN or infinite, as in "epochs[0].loss = nan"; None if there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{name} = {value}"
    parts = []
    if isinstance(value, dict):
        parts = [(f"{name}.{key}" if name else str(key), part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{name}[{number}]", part) for number, part in enumerate(value)]
    return next((bad for key, part in parts if (bad := not_finite(part, key))), None)


def write_record(path: Path | str, record: dict) -> None:
    """Write a record as indented JSON. Raises ValueError where it holds NaN or infinity, before touching the file."""
    if bad := not_finite(record):
        raise ValueError(f"{path} was not written: {bad} is not JSON compliant")
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda p: p.write_text(text))


def read_record(path: Path | str) -> dict:
    """Read a record: a path, or the bare name of a committed one ("cpu_run").

    Raises ValueError with one sentence where the file is absent or is not JSON.
    """
    if str(path).isidentifier():
        path = RESULTS / f"{path}.json"
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such record; the command that writes it has not run here") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is not a JSON record ({error})") from None
