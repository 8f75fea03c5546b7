"""The command line: what it prints and writes, and that every error is one line and exit code 1."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mifad_lite.__main__ as cli
from mifad_lite import (
    CLASSES,
    FaceData,
    FaceSet,
    MIFADConfig,
    MIFADNet,
    checkpoint,
    save_network,
    synthetic_data,
    train,
)
from mifad_lite.records import read_record
from mifad_lite.train import PROFILES

MINI = MIFADConfig(widths=(2, 2, 4, 4, 4, 4), channels=4, embedding=8, head="linear")
HAPPY = CLASSES.index("happy")


@pytest.fixture
def always_happy(tmp_path):
    """A checkpoint whose network sees a happy face everywhere, with odds of 50 to 1 against each other class."""
    net = MIFADNet(MINI)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.zero_()[HAPPY] = np.log(50)
    save_network(tmp_path / "always_happy.safetensors", net)
    return tmp_path / "always_happy.safetensors"


@pytest.fixture
def picture(tmp_path):
    Image.linear_gradient("L").save(tmp_path / "face.png")
    return tmp_path / "face.png"


def split(happy, others, twins=0):
    """Empty images: so many happy ones, of which the first `twins` have a twin, and others of classes 0 to 2."""
    labels = torch.tensor([HAPPY] * happy + [i % 3 for i in range(others)])
    return FaceSet(torch.zeros(len(labels), 1, 48, 48, dtype=torch.uint8), labels, torch.arange(len(labels)) < twins)


@pytest.fixture
def drawn(monkeypatch):
    """What `--data drawn` reads: 104 of 155 private images are happy, and 94 of the 145 without a twin."""
    data = FaceData(split(1200, 3), split(4, 24), split(104, 51, twins=10), "drawn faces", "ab" * 32)
    data.train.twin = None
    monkeypatch.setattr(cli, "synthetic_data", lambda: data)
    return data


@pytest.fixture
def few_faces(monkeypatch):
    """What `--data drawn` reads: few faces, but real drawings."""
    monkeypatch.setattr(cli, "synthetic_data", lambda: synthetic_data(32, 14, 7))


def run(capsys, *args):
    """Exit code, lines of standard output, lines of standard error."""
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def error(capsys, *args):
    """The one line that a command which fails leaves on standard error."""
    code, _, err = run(capsys, *args)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith(f"mifad_lite {args[0]}: ")
    return err[0]


def test_number_of_drawn_faces(capsys):
    code, out, _ = run(capsys, "data", "--data", "drawn:35")
    assert code == 0
    assert [line.split()[1] for line in out[2:9]] == ["5"] * 7
    for source in ("drawn:", "drawn:0", "drawn:many", "drawn:35,intra=0.6.1", "drawn:35,colour=1"):
        assert "number of training faces, as in drawn:20000" in error(capsys, "data", "--data", source)


def test_runs_need_a_folder(capsys, few_faces, tmp_path):
    (tmp_path / "file").touch()
    wanted = ("--data", "drawn", "--table", "fusion", "--epochs", 1, "--runs", tmp_path / "file")
    assert "is a file, and the runs need a folder" in error(capsys, "ablate", *wanted)


def test_data(capsys, drawn, tmp_path):
    code, out, err = run(capsys, "data", "--data", "drawn", "--out", tmp_path / "data.json")
    assert (code, err) == (0, [])
    assert out[0] == f"drawn faces, sha256 {'ab' * 32}"
    table = {line.split()[0]: line.split()[1:] for line in out[2:]}
    assert out[1].split() == ["train", "public", "private"]
    assert list(table) == [*CLASSES, "all", "twins"]
    assert table["angry"] == ["1", "8", "17"]
    assert table["happy"] == ["1,200", "4", "104"]
    assert table["neutral"] == ["0", "0", "0"]
    assert table["all"] == ["1,203", "28", "155"]
    assert table["twins"] == ["0", "10"]  # none counted in train itself
    record = read_record(tmp_path / "data.json")
    assert record["counts"]["private"] == [17, 17, 17, 104, 0, 0, 0]


def wilson(hits, n):
    """Both p at which the score test of p against hits/n is just significant: |hits/n - p| = z sqrt(p (1 - p) / n)."""
    z2 = 1.959963984540054**2 / n
    return np.sort(np.roots([1 + z2, -2 * hits / n - z2, (hits / n) ** 2]))


def test_evaluate(capsys, drawn, always_happy, tmp_path):
    out_file = tmp_path / "out" / "evaluate.json"
    code, out, err = run(capsys, "evaluate", "--data", "drawn", "--checkpoint", always_happy, "--out", out_file)
    assert (code, err) == (0, [])
    assert out[0] == f"{always_happy} on drawn faces"
    for line, name, part, hits, n in (
        (out[1], "public", "whole", 4, 28),
        (out[2], "public", "twin-free", 4, 28),
        (out[3], "private", "whole", 104, 155),
        (out[4], "private", "twin-free", 94, 145),
    ):
        low, high = 100 * wilson(hits, n)
        assert line.split("  (")[0].split() == [name, "test,", part, f"{100 * hits / n:.2f}", "%"]
        assert f"(95 %: {low:.2f} to {high:.2f}; {hits} of {n})" in line
    assert "67.10 %" in out[3]
    happy = ", ".join(f"{name} {'100.00 %' if name == 'happy' else '0.00 %'}" for name in CLASSES[:4])
    assert out[5:] == [f"private test per class: {happy}, sad -, surprise -, neutral -"]

    record = read_record(out_file)
    assert record["kind"] == "evaluate"
    assert record["data"] == {"name": "drawn faces", "sha256": "ab" * 32}
    assert record["network"]["arch"] == "mifad"
    assert record["splits"]["private"]["twin_free"]["accuracy"] == 94 / 145
    assert record["flip"] is False


def test_evaluate_takes_the_shipped_network_and_the_mirror(capsys, drawn, always_happy, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHIPPED", always_happy)
    code, out, _ = run(capsys, "evaluate", "--data", "drawn", "--flip")
    assert code == 0
    assert out[0] == "mifad_lite.safetensors on drawn faces, averaged with the mirror image"
    assert "67.10 %" in out[3]


def test_predict(capsys, picture, always_happy, monkeypatch):
    code, out, err = run(capsys, "predict", picture, "--checkpoint", always_happy)
    assert (code, err) == (0, [])
    assert out[0] == "happy     89.29 %  " + 36 * "#"  # 50/56
    assert out[1] == "angry      1.79 %  #"
    assert len(out) == 8
    assert out[7] == "A guess about a face, not a reading of a feeling."

    monkeypatch.setattr(checkpoint, "SHIPPED", always_happy)
    assert run(capsys, "predict", picture)[1] == out


def test_predict_json(capsys, picture, always_happy, monkeypatch):
    code, out, err = run(capsys, "predict", picture, "--checkpoint", always_happy, "--json")
    assert (code, err, len(out)) == (0, [], 1)
    found = json.loads(out[0])
    assert (found["image"], found["checkpoint"]) == (str(picture), str(always_happy))
    assert list(found["probabilities"]) == list(CLASSES)
    for name, p in found["probabilities"].items():
        assert p == pytest.approx((50 if name == "happy" else 1) / 56, rel=1e-5)

    monkeypatch.setattr(checkpoint, "SHIPPED", always_happy)
    _, out, _ = run(capsys, "predict", picture, "--json")
    assert json.loads(out[0]) == found | {"checkpoint": "mifad_lite.safetensors"}


SMOKE = ("train", "--profile", "smoke", "--data", "drawn", "--batch", "16", "--epochs", "1")


def test_train_then_use_it(capsys, few_faces, picture, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run(capsys, *SMOKE, "--seed", "5", "--lr", "0.01", "--margin", "0.2", "--out", folder)
    assert (code, err) == (0, [])
    assert out[0].startswith("epoch   1/1  loss ")
    record = read_record(folder / "record.json")
    assert out[1] == f"best on the public test: {100 * record['best_public_accuracy']:.2f} % after epoch 1"
    assert out[2] == f"checkpoint, state and record: {folder}/"
    config = record["config"]
    assert [config[k] for k in ("seed", "lr", "margin", "batch", "epochs", "loss")] == [5, 0.01, 0.2, 16, 1, "angular"]

    best = folder / "best.safetensors"
    code, out, _ = run(capsys, "evaluate", "--data", "drawn", "--checkpoint", best)
    assert code == 0
    assert f"{100 * record['best_public_accuracy']:.2f} %" in out[1]
    assert run(capsys, "predict", picture, "--checkpoint", best)[0] == 0
    text = error(capsys, "evaluate", "--data", "drawn", "--checkpoint", folder / "last.safetensors")
    assert "last.safetensors: this is the state of a run; its network is in best.safetensors beside it" in text

    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert "already holds a run: go on with --resume" in error(capsys, *SMOKE, "--out", folder)
    assert "another epochs" in error(
        capsys, *SMOKE[:-1], "2", "--seed", "5", "--lr", "0.01", "--margin", "0.2", "--out", folder, "--resume"
    )
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "network"),
    [
        (["--loss", "softmax"], {"head": "linear", "channels": 16}),
        (["--arch", "resnet18", "--width", "16"], {"width": 16}),
        (["--preset", "lite", "--no-compile", "--bf16"], {"head": "cosine", "channels": 48}),
    ],
)
def test_what_train_builds(options, network, capsys, few_faces, tmp_path, monkeypatch):
    seen = []

    def no_fit(data, config, folder, **rest):
        seen.append(config)
        return None, {"best_public_accuracy": 0.5, "best_epoch": 1}

    monkeypatch.setattr(cli, "fit", no_fit)
    assert run(capsys, *SMOKE, *options)[0] == 0
    assert network.items() <= seen[0].network.items()
    assert seen[0].loss == ("angular" if "--preset" in options else "softmax")
    assert seen[0].compile is False
    assert seen[0].bf16 == ("--bf16" in options)  # the profile `smoke` computes in float32


@pytest.fixture
def configured(monkeypatch):
    """What `train` gives to `fit`: a list of pairs of configuration and options."""
    seen = []

    def no_fit(data, config, folder, **rest):
        seen.append((config, rest))
        return None, {"best_public_accuracy": 0.5, "best_epoch": 1}

    monkeypatch.setattr(cli, "fit", no_fit)
    return seen


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["smoke"], {"graph": False, "schedule": "one-cycle", "teach": 0.0}),
        (["smoke", "--graph", "--schedule", "cosine"], {"graph": True, "schedule": "cosine"}),
        (["flagship"], {"graph": True, "loss": "softmax"}),
        (["flagship", "--no-graph", "--loss", "angular"], {"graph": False, "loss": "angular"}),
        (["flagship", "--crop", "0"], {"augmentation": replace(PROFILES["flagship"].augmentation, crop=0)}),
        (["flagship", "--mixup", "1"], {"mixup": 1.0}),
        (["long", "--mixup", "0"], {"mixup": 0.0}),
        (["smoke", "--sam", "0.1"], {"sam": 0.1}),
        (["cpu", "--crop", "32"], {"augmentation": replace(PROFILES["cpu"].augmentation, crop=32)}),
    ],
    ids=" ".join,
)
def test_options_change_the_profile(options, wanted, capsys, few_faces, configured):
    code, _, err = run(capsys, "train", "--data", "drawn", "--profile", *options)
    assert (code, err) == (0, [])
    ((config, rest),) = configured
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert config.network["head"] == ("cosine" if config.loss == "angular" else "linear")
    assert rest["teachers"] == []
    assert rest["start"] is None


def test_train_hands_the_teachers_on(capsys, few_faces, configured, always_happy, tmp_path):
    torch.manual_seed(0)
    other = MIFADNet(replace(MINI, head="cosine"))
    save_network(tmp_path / "other.safetensors", other)
    both = ("--teacher", always_happy, tmp_path / "other.safetensors")
    assert run(capsys, *SMOKE, "--teach", "0.25", *both)[0] == 0
    ((config, rest),) = configured
    assert config.teach == 0.25
    happy, second = rest["teachers"]
    assert happy(torch.rand(1, 1, 48, 48)).argmax() == HAPPY
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in second.state_dict().items())


def test_train_learns_from_a_teacher(capsys, few_faces, always_happy, tmp_path):
    taught = ("--teach", "0.5", "--teacher", always_happy)
    assert run(capsys, *SMOKE, *taught, "--out", tmp_path / "run")[0] == 0
    assert len(read_record(tmp_path / "run" / "record.json")["teachers"]) == 1
    for wrong, reason in (
        (taught[:2], "teach = 0.5 with 0 teachers: set both (--teach, --teacher), or none"),
        (taught[2:], "teach = 0 with 1 teachers"),
        ((*taught[:3], tmp_path / "none"), "no such checkpoint"),
    ):
        assert reason in error(capsys, *SMOKE, *wrong, "--out", tmp_path / "other")


def test_train_starts_from_a_checkpoint(capsys, few_faces, always_happy, configured, tmp_path):
    assert run(capsys, *SMOKE, "--start", always_happy)[0] == 0
    ((_, rest),) = configured
    assert rest["start"](torch.rand(1, 1, 48, 48)).argmax() == HAPPY
    assert "no such checkpoint" in error(capsys, *SMOKE, "--start", tmp_path / "none", "--out", tmp_path / "other")


def test_errors_are_one_line(capsys, drawn, always_happy, picture, tmp_path, monkeypatch):
    none = tmp_path / "none"
    notes = tmp_path / "notes.txt"
    notes.write_text("Dear diary,\nno face here.\n")
    monkeypatch.chdir(tmp_path)
    for args, reason in (
        (["data", "--data", none], "none"),
        (["data", "--data", notes], "this is not FER2013"),
        (["train", "--data", none], "none"),
        ([*SMOKE, "--lr", "-1"], "-1"),
        ([*SMOKE[:-1], "0"], "epochs = 0"),
        ([*SMOKE, "--margin", "9"], "margin m = 9.0"),
        ([*SMOKE, "--arch", "resnet18", "--loss", "angular"], "cosine"),
        (["evaluate", "--data", "drawn", "--checkpoint", none], "no such checkpoint"),
        (["evaluate", "--data", "drawn", "--checkpoint", notes], "not a readable safetensors checkpoint"),
        (["evaluate", "--data", none, "--checkpoint", always_happy], "none"),
        (["evaluate", "--data", "drawn", "--checkpoint", always_happy, "--out", tmp_path], str(tmp_path)),
        (["predict", none, "--checkpoint", always_happy], "no such file"),
        (["predict", notes, "--checkpoint", always_happy, "--json"], "not a picture"),
        (["predict", tmp_path, "--checkpoint", always_happy], "folder"),
        (["predict", picture, "--checkpoint", none], "no such checkpoint"),
        (["predict", picture, "--checkpoint", picture], "not a readable safetensors checkpoint"),
    ):
        assert reason in error(capsys, *args)


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "--out"],
        ["evaluate", "--out"],
        ["inspect", "--out"],
        ["ablate", "--out"],
        ["bench", "--out"],
        ["interpolate", "a", "b", "--save"],
        ["interpolate", "a", "b", "--save", "net.safetensors", "--out"],
        ["shrink", "net.safetensors", "--out"],
        ["export", "--out"],
        ["explore", "--out"],
        ["promise", "--out"],
        ["report", "--out"],
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(argv, capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(cli, f"{argv[0]}_command", lambda args: pytest.fail("it began to work"))
    assert "folder was not written: something stands there" in error(capsys, *argv, tmp_path / "folder")
    assert f"{tmp_path / 'file'} is not a folder" in error(capsys, *argv, tmp_path / "file" / "new" / "out.json")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_whose_folder_cannot_be_made_is_refused_before_the_work(capsys, few_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "build", lambda *args: pytest.fail("it began to work"))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "run" / "record.json").mkdir(parents=True)
    assert "is not a folder" in error(capsys, *SMOKE, "--out", tmp_path / "file" / "run")
    assert "record.json was not written: something stands" in error(capsys, *SMOKE, "--out", tmp_path / "run")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "record.json", "run"]


def test_a_network_for_other_classes_is_refused(capsys, few_faces, picture, tmp_path):
    """Three answers were scored as if they were the first three of seven emotions."""
    path = tmp_path / "three.safetensors"
    save_network(path, MIFADNet(replace(MINI, classes=3)))
    for args in (["evaluate", "--data", "drawn"], ["predict", picture], ["inspect", "--data", "drawn", "--out", path]):
        text = error(capsys, *args, "--checkpoint", path)
        assert f"{path}: the network tells 3 classes apart, and faces here have 7" in text


def test_weights_too_large_to_answer_are_refused(capsys, picture, tmp_path):
    net = MIFADNet(MINI)
    with torch.no_grad():
        net.norm.weight.fill_(3e38)  # each is finite, and no product of the two
        net.head.weight.fill_(3e38)
    path = tmp_path / "huge.safetensors"
    save_network(path, net)
    assert "is not finite; do not use it" in error(capsys, "predict", picture, "--checkpoint", path)


def test_a_path_with_a_line_break_still_makes_one_line(capsys, tmp_path):
    assert "a b.png: there is no such file" in error(capsys, "predict", tmp_path / "a\nb.png")


def test_memory_that_is_too_small_is_said(capsys, monkeypatch):
    for failure in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")):
        monkeypatch.setattr(cli, "get_data", lambda source, failure=failure: (_ for _ in ()).throw(failure))
        assert "the memory is too small for this" in error(capsys, "data")
    monkeypatch.setattr(cli, "get_data", lambda source: (_ for _ in ()).throw(RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.main(["data"])


def test_a_missing_compiler_is_said(capsys, monkeypatch):
    for words in ("InvalidCxxCompiler: No working C++ compiler found", "Failed to find C compiler. Please specify"):
        monkeypatch.setattr(cli, "get_data", lambda source, words=words: (_ for _ in ()).throw(RuntimeError(words)))
        assert "needs a C++ compiler and finds none: install one" in error(capsys, "data")


def test_a_run_that_blows_up_says_so(capsys, few_faces, tmp_path):
    text = error(capsys, *SMOKE[:-1], "8", "--lr", "1e30", "--out", tmp_path / "run")
    assert "lower lr or the margin" in text


@pytest.mark.parametrize(
    ("flags", "expected"), [([], ("bench", 32, 4, 2)), (["--scaling"], ("scaling", 2)), (["--gates"], ("gates", 2))]
)
def test_bench_measures_one_thing_or_the_other(capsys, tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr(cli, "bench", lambda *args: {"called": ["bench", *args]})
    monkeypatch.setattr(cli, "bench_scaling", lambda *args: {"called": ["scaling", *args]})
    monkeypatch.setattr(cli, "bench_gates", lambda repeats: {"called": ["gates", repeats]})
    out = tmp_path / "record.json"
    code, _, err = run(capsys, "bench", *flags, "--batch", 32, "--steps", 4, "--repeats", 2, "--out", out)
    assert (code, err) == (0, [])
    assert read_record(out) == {"called": list(expected)}


@pytest.mark.parametrize("flags", [[], ["--scaling"], ["--gates"], ["--graphs"]])
def test_bench_refuses_to_measure_never(capsys, monkeypatch, flags):
    for name in ("bench", "bench_scaling", "bench_gates", "bench_graphs"):
        monkeypatch.setattr(cli, name, None)
    for repeats in (0, -1):
        assert f"repeats = {repeats} must be at least 1" in error(capsys, "bench", *flags, "--repeats", repeats)


@pytest.mark.parametrize(("flags", "compiled"), [([], ()), (["--compile"], ("lite",))])
def test_bench_of_graphs_writes_its_record_as_it_grows(capsys, tmp_path, monkeypatch, flags, compiled):
    out, seen = tmp_path / "record.json", []

    def bench_graphs(compiled, save):
        save({"rows": 1})
        seen.append(compiled)
        if out.exists():
            seen.append(read_record(out))
        return {"rows": 2}

    monkeypatch.setattr(cli, "bench_graphs", bench_graphs)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees none here" in error(capsys, "bench", "--graphs", *flags, "--out", out)
    assert not seen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run(capsys, "bench", "--graphs", *flags)[::2] == (0, [])
    assert seen == [compiled]
    assert run(capsys, "bench", "--graphs", *flags, "--out", out)[::2] == (0, [])
    assert seen[1:] == [compiled, {"rows": 1}]
    assert read_record(out) == {"rows": 2}


def test_control_c(capsys, few_faces, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fit", interrupted)
    code, out, err = run(capsys, *SMOKE, "--out", tmp_path / "run")
    assert (code, out, len(err)) == (130, [], 1)
    assert "stopped by you" in err[0]


@pytest.mark.parametrize("args", [[], ["fly"], ["train", "--profile", "huge"], ["predict"], ["train", "--epochs", "x"]])
def test_wrong_usage_exits_with_2(args, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert "usage: mifad_lite" in capsys.readouterr().err


def test_no_command_waits_for_what_only_figures_need(root):
    slow = "{'matplotlib', 'seaborn', 'scipy', 'IPython'}"
    code = f"import sys, mifad_lite.__main__; print(*({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_as_a_program(root, always_happy, picture):
    def program(*args):
        command = [sys.executable, "-m", "mifad_lite", *args]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    done = program("predict", picture, "--checkpoint", always_happy, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["probabilities"]["happy"] == pytest.approx(50 / 56, rel=1e-5)
    failed = program("predict", always_happy, "--checkpoint", always_happy)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"mifad_lite predict: {always_happy}: this is not a picture that Pillow can read\n"


def test_a_signal_ends_at_once_while_the_command_line_is_read(monkeypatch):
    """`stop` raises, and nothing catches that before the command is known; until then `stop_at_once` must stay."""
    changed = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: changed.append(number))
    monkeypatch.setattr(sys, "argv", ["mifad_lite", "no-such-command"])
    with pytest.raises(SystemExit):
        cli.program()
    assert not changed
