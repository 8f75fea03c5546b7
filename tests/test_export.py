"""The exported network says what the one in PyTorch says, and the page's copy is that of the shipped checkpoint."""

import hashlib
import importlib.util
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import ROOT
from test_checkpoint import trained_a_bit

from mifad_lite import MIFADConfig, MIFADNet, ResNet18, ResNetConfig, accelerate, load_network, synthetic_faces
from mifad_lite.__main__ import main
from mifad_lite.checkpoint import NAMES
from mifad_lite.data import CLASSES, load_fer2013
from mifad_lite.export import Opened, describe, export, read_page_script

FACES = synthetic_faces(500, seed=11).images.float() / 255


def outputs(model, x, *names):
    """What ONNX Runtime computes, by name: all outputs or those asked for."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["face"]
    names = names or [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"face": x.numpy()}), strict=True))


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """The shipped network, exported by the command, and the command's file."""
    path = tmp_path_factory.mktemp("a folder") / "lité.onnx"
    assert main(["export", "--inside", "--out", str(path)]) == 0
    return load_network()[0], path


@torch.no_grad()
def test_lite_on_500_drawn_faces(lite):
    net, path = lite
    got = outputs(path.read_bytes(), FACES, "logits", "embedding", "cosines")
    embedding = net.features(FACES)  # PyTorch on its own fast routes
    assert np.abs(got["embedding"] - embedding.numpy()).max() < 1e-4
    assert np.abs(got["cosines"] - net.head(embedding).numpy()).max() < 1e-5
    assert np.abs(got["logits"] - net.classify(embedding).numpy()).max() < 1e-4


@torch.no_grad()
def test_lite_on_500_real_faces(lite):
    net, path = lite
    try:
        faces = load_fer2013().public.images[:500].float() / 255
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(faces) == 500
    logits = outputs(path.read_bytes(), faces, "logits")["logits"]
    assert np.abs(logits - net(faces).numpy()).max() < 1e-4


@torch.no_grad()
def test_the_maps_are_those_of_the_network(lite):
    net, path = lite
    x = FACES[:3]
    got = outputs(path.read_bytes(), x)
    _, seen = net.features(x, return_maps=True)
    maps = {f"{name}{depth}": value for depth, named in seen.items() for name, value in named.items()}
    for k, column in enumerate(net.columns, 1):
        y = (x - 0.5) * 4
        for depth, conv in enumerate(column.convs, 1):  # the column once more, in its plainest form
            y = conv(y)
            y = torch.relu(column.norms[depth - 1](y) if depth < 6 else y)
            maps[f"column{k}_depth{depth}"] = y
            if depth in column.pool_after:
                y = torch.nn.functional.max_pool2d(y, 2)
    assert set(got) == set(maps) | {"logits", "embedding", "cosines"}
    for name, value in maps.items():
        assert got[name].shape == value.shape, name
        assert np.abs(got[name] - value.numpy()).max() < 1e-4 * max(1, float(value.abs().max())), name
    for depth in (4, 5, 6):
        np.testing.assert_allclose(got[f"channel{depth}"].sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(got[f"spatial{depth}"].sum(-1), 1, atol=1e-5)


SMALL = MIFADConfig(
    kernel_sizes=(3, 5), widths=((2, 3, 4, 5, 6, 7),) * 2, channels=4, embedding=8, attention="channel", head="linear"
)


@torch.no_grad()
@pytest.mark.parametrize("net", [MIFADNet(SMALL), ResNet18(ResNetConfig(width=2))], ids=["mifad", "resnet18"])
def test_other_networks_and_any_batch(net, tmp_path):
    torch.manual_seed(3)
    trained_a_bit(net)
    export(net, tmp_path / "net.onnx")
    model = (tmp_path / "net.onnx").read_bytes()
    for n in (1, 7):
        got = outputs(model, FACES[:n])
        assert list(got) == ["logits"]  # without `inside`, nothing else
        assert np.abs(got["logits"] - net(FACES[:n]).numpy()).max() < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_stays_as_it_is(dtype, tmp_path):
    """In training mode, of another precision: exported is what it says in evaluation mode and float32."""
    torch.manual_seed(3)
    net = trained_a_bit(MIFADNet(SMALL)).to(dtype)
    wanted = net(FACES[:5].to(dtype)).float()
    net.train().columns[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    names = Opened(net, inside=True).names
    export(net, tmp_path / "net.onnx", inside=True)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    got = outputs((tmp_path / "net.onnx").read_bytes(), FACES[:5])
    assert list(got) == names
    assert np.abs(got["logits"] - wanted.detach().numpy()).max() < 1e-4


def test_eight_bits_are_not_exported(tmp_path):
    fast = accelerate(MIFADNet(SMALL), synthetic_faces(7).images)
    with pytest.raises(ValueError, match="a network on 8-bit integers is not exported: give the network"):
        export(fast, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_inside_follows_the_network():
    names = Opened(MIFADNet(SMALL).eval(), inside=True).names
    assert "cosines" not in names  # a linear head has none
    assert not [n for n in names if n.startswith("spatial")]
    assert {"embedding", "column2_depth6", "channel4", "gate6"} < set(names)
    about = describe(MIFADNet(SMALL))
    assert about["kernels"] == [3, 5]
    assert about["alpha"] == [0, 0, 0]
    assert about["beta"] == [None] * 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["lite", "drawn"])
def test_the_page_runs_the_networks_that_ship(name):
    model, about = read_page_script(ROOT / f"book/_static/face/network_{name}.js")
    net, _ = load_network(name)
    command = f"python -m mifad_lite export --inside --checkpoint {name} --out book/_static/face/network_{name}.js"
    digest = hashlib.sha256(NAMES[name].read_bytes()).hexdigest()
    assert about["checkpoint_sha256"] == digest, f"the page's network is another one: {command}"
    assert about["sha256"] == hashlib.sha256(model).hexdigest()
    assert about["bytes"] == len(model)
    assert about["classes"] == list(CLASSES)
    assert about["alpha"] == [f.attention.channel.alpha.item() for f in net.fusions]
    assert about["beta"] == [f.attention.spatial.beta.item() for f in net.fusions]
    got = outputs(model, FACES[:20])
    assert np.abs(got["logits"] - net(FACES[:20]).numpy()).max() < 1e-4
    assert set(got) == set(Opened(net, inside=True).names)


def test_the_file_says_what_it_is(lite):
    model = onnx.load(lite[1])
    onnx.checker.check_model(model)
    about = json.loads(next(p.value for p in model.metadata_props if p.key == "mifad"))
    assert about["classes"] == list(CLASSES)
    assert about["name"] == "lite"
    assert about["parameters"] == sum(p.numel() for p in lite[0].parameters())
    assert str(ROOT) not in lite[1].read_bytes().decode("latin1")  # nothing of this machine


def test_bad_requests_get_a_sentence(tmp_path, capsys, monkeypatch):
    assert main(["export", "--out", str(tmp_path / "net.pt")]) == 1
    assert "a model (.onnx) or a script for a page (.js)" in capsys.readouterr().err
    assert main(["export", "--checkpoint", str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "a.onnx")]) == 1
    assert "there is no such checkpoint" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    assert main(["export", "--out", str(tmp_path / "a.onnx")]) == 1
    assert capsys.readouterr().err.count("pip install") == 1
    assert not list(tmp_path.iterdir())
