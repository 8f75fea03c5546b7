"""Several processes take the steps of one: batch norm, whole runs, resuming with another count, and lost processes.

Whole runs are compared in float64. Rounding grows about tenfold with each of the first steps of a small network: one
process whose weights differ in the last bit of a float32 is 1e-4 off the loss within ten steps, and hides a mistake.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import mifad_lite.__main__ as cli
from mifad_lite import TrainConfig, fit, load_network, profile, report, synthetic_data
from mifad_lite.augment import Augmentation, augment
from mifad_lite.distributed import Team, join, place, speaks
from mifad_lite.model import PRESETS
from mifad_lite.records import read_record
from mifad_lite.train import TrainingStopped

MINI = {
    **PRESETS["tiny"].to_dict(),
    "kernel_sizes": (5, 3),
    "widths": (2, 2, 4, 4, 4, 4),
    "channels": 4,
    "pool_after": (1, 2, 4),
    "embedding": 8,
    "dropout": 0.2,
}
LINEAR = {**MINI, "head": "linear"}
FACES = (34, 28, 7)  # two steps of 16 an epoch
DIALS = {"intra": 0.2, "inter": 0.1}
DATA = "drawn:34,public=28,private=7,intra=0.2,inter=0.1"  # the same
TRAIN = ["train", "--profile", "smoke", "--preset", "tiny", "--epochs", 4, "--batch", 16, "--data", DATA, "--out"]
FILES = ["best.safetensors", "last.safetensors", "record.json"]
SAYS = "the last whole epoch is kept: start the same command again with --resume"

# Runs that several processes repeat. What a batch has in common differs from loss to loss.
RUNS = {
    "angular": {"clip": 0.5},
    "mixup": {"mixup": 0.4, "smoothing": 0.1, "augmentation": Augmentation(crop=40)},
    "sam": {"sam": 0.3, "mixup": 0.4},
    "island": {"loss": "island", "network": LINEAR, "aux_weight": 0.1, "optimizer": "sgd"},
    "resumed": {"loss": "center", "network": LINEAR, "aux_weight": 0.1, "ema": 0.0},
}

FLOAT64 = """
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
"""

# The command in float64 on a small network. `where` says what happens to it.
DRIVER = f"""{FLOAT64}
import json, os, signal, sys, time
import mifad_lite.__main__ as cli
from mifad_lite import MIFADConfig, train

def run(where, network, argv):
    rank, calls, augment = int(os.environ["RANK"]), [], train.augment

    def watched(*args, **options):
        calls.append(1)
        if where == "killed" and rank == 1 and len(calls) == 4:  # in the second epoch of the call
            os.kill(os.getpid(), signal.SIGKILL)
        if where == "waits" and rank == 0 and len(calls) == 3:  # the other process waits inside a sum
            time.sleep(60)
        return augment(*args, **options)

    train.augment = watched
    cli.PRESETS["tiny"] = MIFADConfig(**json.loads(network))
    return cli.main(argv)

if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:3], sys.argv[3:]))
"""

# Both processes do all of this and save what they got. In the end they train until Ctrl-C.
SCRIPT = """
import sys
import driver
import torch
from mifad_lite import TrainConfig, fit, synthetic_data, train
from mifad_lite.distributed import TeamBatchNorm, TeamDropout, join

folder, network, *argv = sys.argv[1:]
given, got = torch.load(f"{folder}/given.pt", weights_only=False), {}
data = synthetic_data(*given["faces"], **given["dials"])

def refusal(changes, folder=None):
    try:
        fit(data, TrainConfig(**given["quick"] | changes), folder)
    except (ValueError, train.TrainingStopped) as error:
        return type(error).__name__, str(error)

got["refused"] = [refusal(changes) for changes in given["refused"]]
got["refused"].append(refusal({}, f"{folder}/resumed"))

for name, changes in given["runs"].items():
    config = TrainConfig(**given["quick"] | changes)
    net, record = fit(data, config, f"{folder}/{name}", resume=True, log=lambda line: print("log", line))
    got[name] = record, net.state_dict()

calls, augment = [], train.augment
def broken(*args, **options):
    calls.append(1)
    x = augment(*args, **options)
    return x * float("nan") if team.rank == 1 and len(calls) == 2 else x
team = join("cpu")
train.augment = broken
got["nan"] = refusal({})
train.augment = augment

rows = team.share(12)
for name, norm, x, weights in given["norms"]:
    layer = TeamBatchNorm(team, norm)
    x = x[rows].contiguous(memory_format=torch.channels_last if name == "last" else torch.contiguous_format)
    x.requires_grad_()
    layer(x.detach() * 0.5 + 1)  # the running statistics have seen two batches
    y = layer(x)
    (y * weights[rows]).sum().backward()
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    got[name] = y.detach(), x.grad, layer.weight.grad, layer.bias.grad, state, layer.eval()(x).detach()
torch.manual_seed(3)
got["dropout"] = TeamDropout(team, 0.3)(given["dropout"][rows])
torch.save(got, f"{folder}/{team.rank}.pt")
sys.exit(driver.run("waits", network, argv))
"""

# What several processes under NCCL meet: the main thread waits where no Python runs.
STUCK = """
import datetime, sys
import torch.distributed as dist
from mifad_lite.distributed import guard

with guard(RuntimeError, patience=0.5):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    print("stuck", flush=True)
    store.wait(["never"], datetime.timedelta(seconds=100))
"""


QUICK = {"network": MINI, "epochs": 3, "batch": 16, "lr": 1e-2, "ema": 0.5, "bf16": False}


def quick(**changes):
    """Three epochs of two steps."""
    return TrainConfig(**QUICK | changes)


def faces():
    return synthetic_data(*FACES, **DIALS)


def torchrun(root, *argv, line=None, number=None):
    """Two processes: -> exit status, output, errors. At the first line that begins with `line`, `number` is sent."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, argv)]
    process = subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    alarm = threading.Timer(300, process.terminate)  # a run that hangs fails its test
    alarm.start()
    try:
        out = ""
        if line:
            for text in process.stdout:
                out += text
                if text.startswith(line):
                    process.send_signal(number)
                    break
        rest, err = process.communicate()
        assert alarm.is_alive(), f"it hung\n{err}"
        return process.returncode, out + rest, err
    finally:
        alarm.cancel()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As torchrun gives each process: two processes on two cores leave no room for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def losses(record):
    return [epoch["loss"] for epoch in record["epochs"]]


def said(err):
    return [text for text in err.splitlines() if text.startswith("mifad_lite")]


class Cut(Exception):
    pass


def cut(line):
    raise Cut


# --- One script, two processes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(0)
    shapes = {"rows": (12, 5), "maps": (12, 5, 4, 3), "last": (12, 5, 4, 3), "single": (12, 5, 1, 1)}
    norms = []
    for name, shape in shapes.items():
        norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, momentum=0.3).double()
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        x, weights = torch.randn(2, *shape, dtype=torch.float64)
        norms.append((name, norm, x * 3 + torch.arange(12.0).view(-1, *[1] * (len(shape) - 1)), weights))
    far = torch.randn(12, 5, 4, 3) + 3000  # float32: E[x^2] - E[x]^2 has no digit left here
    norms.append(("far", nn.BatchNorm2d(5), far, torch.randn(12, 5, 4, 3)))
    dropout = torch.randn(12, 40, dtype=torch.float64)
    refused = [{"batch": 15}, {"batch": 2}, {"compile": True}, {"graph": True}]
    runs = {"faces": FACES, "dials": DIALS, "quick": QUICK, "runs": RUNS, "refused": refused}
    return {"norms": norms, "dropout": dropout, **runs}


@pytest.fixture(scope="module")
def script(given, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    torch.save(given, folder / "given.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            with pytest.raises(Cut):
                fit(faces(), quick(**RUNS["resumed"]), folder / "resumed", log=cut, device="cpu")
        finally:
            torch.set_default_dtype(torch.float32)
    (folder / "driver.py").write_text(DRIVER)
    (folder / "script.py").write_text(SCRIPT)
    network = json.dumps(MINI)
    status, out, err = torchrun(
        root,
        folder / "script.py",
        folder,
        network,
        *TRAIN,
        folder / "stopped",
        line="epoch   1/4",
        number=signal.SIGINT,
    )
    assert (folder / "1.pt").exists(), err
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)], (status, out, err)


@pytest.mark.parametrize("name", ["rows", "maps", "last", "single"])
def test_batch_norm_of_two_shares_is_that_of_the_whole_batch(name, script, given):
    _, norm, x, weights = next(row for row in given["norms"] if row[0] == name)
    x = x.clone().requires_grad_()
    norm(x.detach() * 0.5 + 1)
    y = norm(x)
    (y * weights).sum().backward()
    whole = y.detach(), x.grad, norm.weight.grad, norm.bias.grad
    ours = list(zip(*(got[name] for got in script[1]), strict=True))
    for wanted, parts, join_parts in zip(whole, ours, (torch.cat, torch.cat, sum, sum), strict=False):
        torch.testing.assert_close(join_parts(parts), wanted, rtol=0, atol=1e-10)
    for state in ours[4]:
        assert state.keys() == norm.state_dict().keys()
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cat(ours[5]), norm.eval()(x).detach(), rtol=0, atol=1e-10)


def test_batch_norm_keeps_its_digits_far_from_zero(script, given):
    _, norm, x, _ = next(row for row in given["norms"] if row[0] == "far")
    parts = [got["far"] for got in script[1]]
    y = torch.cat([part[0] for part in parts])
    assert y.dtype == torch.float32
    wanted = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=2e-3)  # 3000 has a last bit of 2.4e-4
    assert torch.equal(parts[0][4]["running_var"], parts[1][4]["running_var"])


def test_dropout_keeps_the_rows_of_one_mask(script, given):
    torch.manual_seed(3)
    wanted = F.dropout(given["dropout"], 0.3)
    assert 0 < (wanted == 0).double().mean() < 1
    assert torch.equal(torch.cat([got["dropout"] for got in script[1]]), wanted)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_two_processes_is_that_of_one(name, script, float64):
    """Loss, hits and every weight; "resumed" had its first epoch on one process and goes on with two."""
    net, record = fit(faces(), quick(**RUNS[name]), device="cpu")
    folder, got, _ = script
    for ours, state in (one[name] for one in got):
        assert losses(ours) == pytest.approx(losses(record), abs=2e-6)  # records have six digits
        for key in ("train_accuracy", "public_accuracy", "lr"):
            assert [e[key] for e in ours["epochs"]] == pytest.approx([e[key] for e in record["epochs"]], abs=2e-6)
        assert ours["best_epoch"] == record["best_epoch"]
        assert ours["config"] == record["config"]
        for key, value in net.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-7)
    for key, value in got[0][name][1].items():
        assert torch.equal(value, got[1][name][1][key]), f"{key} differs between the processes"
    written = read_record(folder / name / "record.json")
    assert written["processes"] == 2
    assert "processes" not in record
    saved, meta = load_network(folder / name / "best.safetensors")  # an ordinary network, for any number of processes
    assert meta["epoch"] == record["best_epoch"]
    assert isinstance(saved.norm, nn.BatchNorm1d)


def test_the_first_process_alone_logs_and_writes(script):
    folder, _, (_, out, _) = script
    logged = [text for text in out.splitlines() if text.startswith("log epoch")]
    assert len(logged) == 3 * len(RUNS) - 1  # one epoch was trained before
    assert sorted(path.name for path in (folder / "angular").iterdir()) == FILES


def test_all_processes_refuse_alike(script):
    for got in script[1]:
        batch, small, compiled, graph, taken = got["refused"]
        assert {kind for kind, _ in got["refused"]} == {"ValueError"}
        assert "a batch of 15 images does not go into 2 processes" in batch[1]
        assert "a batch of 2 images" in small[1]
        assert "use --no-compile" in compiled[1]
        assert "steps shared by 2 processes are not recorded as a graph here: use --no-graph" in graph[1]
        assert "already holds a run" in taken[1]


def test_a_nan_on_one_process_stops_all_with_one_message(script):
    first, second = (got["nan"] for got in script[1])
    assert first == second
    assert first[0] == "TrainingStopped"
    assert first[1].startswith("epoch 1, step 2: loss nan, gradient norm nan")


def test_a_process_that_waits_forever_still_says_why_it_ends(root):
    environment = {**os.environ, "PYTHONPATH": str(root), "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    environment.pop("MASTER_ADDR", None)
    command = [sys.executable, "-c", STUCK]
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "stuck\n", process.communicate()
        time.sleep(2)  # a signal between its last two lines would find Python still running
        process.terminate()
        _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert len(said(err)) == 1
    assert said(err)[0].startswith("mifad_lite: told to stop")
    assert said(err)[0].endswith(SAYS)


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_on_two_processes_repeats_the_curve_of_one(root, tmp_path):
    """As typed, in float32, and short enough that rounding stays below 1e-4."""
    config = profile("smoke", epochs=3, batch=32, lr=2e-4)
    _, record = fit(faces(), config, device="cpu")
    options = ["--profile", "smoke", "--epochs", 3, "--batch", 32, "--lr", 2e-4, "--data", DATA, "--out", tmp_path]
    status, out, err = torchrun(root, "-m", "mifad_lite", "train", *options)
    assert status == 0, err
    ours = read_record(tmp_path / "record.json")
    assert losses(ours) == pytest.approx(losses(record), abs=1e-4)
    assert max(losses(record)) - min(losses(record)) > 0.05
    assert out.count("epoch") == 4  # three lines, and "best ... after epoch"
    assert out.count("checkpoint, state and record:") == 1
    assert said(err) == []


def test_ctrl_c_ends_all_processes_with_one_sentence(script):
    folder, _, (status, _, err) = script
    assert status != 0
    assert said(err) == ["mifad_lite train: stopped by you; what was written is whole"]
    assert len(losses(read_record(folder / "stopped/record.json"))) == 1


def test_a_killed_process_ends_the_others_and_one_process_goes_on(script, root, tmp_path, float64):
    """Two processes to Ctrl-C, two again until one is killed, one to the end: the curve is the uncut one."""
    folder, run = script[0], tmp_path / "run"
    shutil.copytree(folder / "stopped", run)
    status, out, err = torchrun(root, folder / "driver.py", "killed", json.dumps(MINI), *TRAIN, run, "--resume")
    assert status != 0
    assert len(said(err)) == 1
    # the sum that breaks tells the other process, or torchrun does if it is first
    assert re.match(r"mifad_lite train: (another process of the run has ended|told to stop)", said(err)[0])
    assert said(err)[0].endswith(SAYS)
    assert "SIGKILL" in err  # torchrun's report has the process and the signal
    assert out.startswith("epoch   2/4")
    assert len(losses(read_record(run / "record.json"))) == 2
    assert sorted(path.name for path in run.iterdir()) == FILES

    config = profile("smoke", network=MINI, epochs=4, batch=16)
    _, resumed = fit(faces(), config, run, resume=True, device="cpu")
    _, record = fit(faces(), config, tmp_path / "uncut", device="cpu")
    assert losses(resumed) == pytest.approx(losses(record), abs=2e-6)
    ours, wanted = (load_file(folder / "last.safetensors") for folder in (run, tmp_path / "uncut"))
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():  # weights, their average, the optimizer's state
        torch.testing.assert_close(ours[key].double(), value.double(), rtol=0, atol=1e-6)


# --- Without processes ------------------------------------------------------------------------------------------------


def test_the_shares_of_a_batch_make_the_batch():
    x = torch.randint(0, 256, (12, 1, 48, 48), dtype=torch.uint8)
    for strength in (Augmentation(), Augmentation(crop=40, erase=1.0), Augmentation.none()):
        whole = augment(x, strength, torch.Generator().manual_seed(1))
        parts = [
            augment(x, strength, torch.Generator().manual_seed(1), share=Team("cpu", rank, 3).share(12))
            for rank in range(3)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [10, 3, 4, 0])
def test_unequal_or_tiny_shares_are_refused(batch):
    with pytest.raises(ValueError, match=rf"a batch of {batch} images does not go into 4 processes"):
        Team("cpu", 1, 4).share(batch)


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MASTER_ADDR", raising=False)


def test_more_processes_than_gpus_are_refused(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"^2 processes on a machine where torch sees 1 GPU: each needs its own"):
        join("cuda")


def test_other_commands_are_refused(second_of_two, capsys):
    assert cli.main(["bench"]) == 1
    assert capsys.readouterr().err.endswith("start it without torchrun\n")


@pytest.mark.parametrize("page", ["README.md", "book/beyond.md"])
def test_the_pages_start_what_there_is(page, root):
    lines = re.findall(r"^torchrun (.*?)(?:  #.*)?$", (root / page).read_text("utf8"), re.MULTILINE)
    assert lines
    for line in lines:
        options, command = line.split("-m mifad_lite ")
        assert re.fullmatch(r"--nproc-per-node \d ", options)
        assert cli.make_parser().parse_args(command.split()).command == "train"


def test_what_the_page_counts():
    """Arithmetic again, from the published counts and the network's shapes."""
    numbers = report.values()
    assert numbers["beyond.n"] == "287,651"
    assert "| AffectNet, eight classes | 287,651 | 0.66 GB | 43.30 GB |" in numbers["beyond.memory"]
    parameters = sum(p.numel() for p in load_network("lite")[0].parameters())
    assert f"| lite | {parameters:,} | {4 * parameters / 1e6:.1f} MB |" in numbers["beyond.traffic"]  # two: once P
    speed = next(row for row in read_record("bench")["training"] if row["name"] == "base")["images_per_second"]
    assert f"| base, 48 x 48 | {speed:.0f} | {287_651 / speed / 60 / 60:.1f} |" in numbers["beyond.hours"]
    norms = 3 * 5 + 3 * (1 + 2) + 1  # columns; fusions with two attentions each; embedding
    assert numbers["beyond.norms"] == str(norms)


def test_one_process_starts_no_group(monkeypatch):
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: pytest.fail("a group was started"))
    before = signal.getsignal(signal.SIGTERM)
    assert place() == (0, 1, 0)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # a blank variable is as good as none
    assert place() == (0, 1, 0)
    assert speaks()
    fit(faces(), quick(epochs=1), device="cpu")
    assert signal.getsignal(signal.SIGTERM) == before
    assert issubclass(TrainingStopped, RuntimeError)
