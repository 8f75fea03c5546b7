"""A network comes back from disk as it was; whatever else a file holds gets one sentence, and no code is run."""

import json
import pickle
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mifad_lite import (
    MIFADConfig,
    MIFADNet,
    ResNet18,
    ResNetConfig,
    accelerate,
    checkpoint,
    load_network,
    save_network,
    synthetic_faces,
)
from mifad_lite.baseline import ColumnsNet
from mifad_lite.checkpoint import CheckpointError, read_tensors, save_weights, write_tensors

CONFIG = MIFADConfig(widths=(2, 2, 4, 4, 4, 4), channels=4, embedding=8, dropout=0.1)
LINEAR = MIFADConfig(kernel_sizes=(3, 5), widths=((2,) * 6, (3,) * 6), channels=4, embedding=8, head="linear")


def trained_a_bit(net):
    """Weights, running statistics and counters that a fresh network does not have."""
    net.train()
    net(torch.rand(8, 1, 48, 48))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return trained_a_bit(MIFADNet(CONFIG))


@pytest.fixture
def path(net, tmp_path):
    save_network(tmp_path / "net.safetensors", net)
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize(
    ("network", "arch"),
    [
        (MIFADNet(CONFIG), "mifad"),
        (MIFADNet(LINEAR), "mifad"),
        (ResNet18(ResNetConfig(width=2)), "resnet18"),
        (ColumnsNet(LINEAR), "columns"),
    ],
)
def test_round_trip(network, arch, tmp_path):
    trained_a_bit(network.to(memory_format=torch.channels_last))
    save_network(tmp_path / "a" / "net.safetensors", network, epoch=3, note="ä")
    again, meta = load_network(tmp_path / "a" / "net.safetensors")
    assert type(again) is type(network)
    assert again.config == network.config
    assert not again.training
    assert meta == {"arch": arch, "config": json.loads(json.dumps(network.config.to_dict())), "epoch": 3, "note": "ä"}
    assert list(again.state_dict()) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    x = torch.rand(5, 1, 48, 48)
    assert torch.equal(again(x), network.to(memory_format=torch.contiguous_format)(x))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["net.safetensors"]


def test_weights_that_no_network_holds_round_trip(net, path, tmp_path):
    """As training keeps its best epoch's aside; what they are said to be is what `save_network` says of a network."""
    weights = {name: t.clone() for name, t in net.state_dict().items()}
    weights["norm.weight"] += 1
    save_weights(tmp_path / "aside.safetensors", "mifad", CONFIG, weights, epoch=4)
    again, meta = load_network(tmp_path / "aside.safetensors")
    assert meta == load_network(path)[1] | {"epoch": 4}
    assert again.state_dict().keys() == weights.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    with torch.no_grad():
        net.norm.weight.add_(1)
        x = torch.rand(3, 1, 48, 48)
        assert torch.equal(again(x), net(x))
        net.norm.weight.copy_(load_network(path)[0].norm.weight)


def test_any_reader_of_safetensors_can_read_it(path, net):
    tensors = load_file(path)
    assert set(tensors) == set(net.state_dict())
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    where = header["head.weight"]["data_offsets"]
    data = raw[8 + int.from_bytes(raw[:8], "little") :][slice(*where)]
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(7, 8), net.head.weight.detach().numpy())


def test_without_a_path_the_shipped_network_is_loaded(path, net, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHIPPED", path)
    again, _ = load_network()
    assert torch.equal(again.head.weight, net.head.weight)


def failure(path, read=load_network):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


def test_missing(tmp_path):
    assert "there is no such checkpoint" in failure(tmp_path / "none.safetensors")
    failure(tmp_path)


def test_truncated_anywhere(path):
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for size in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        assert "not a readable safetensors checkpoint" in failure(path)
    path.write_bytes(raw + b"\0")
    failure(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 7)), min_size=1, max_size=3))
@example(flips=[(144, 2)])  # 4 channels become 0
def test_flipped_bits_in_the_header(net, tmp_path, flips):
    path = tmp_path / "net.safetensors"
    save_network(path, net)
    raw = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    for where, bit in flips:
        raw[where % header] ^= 1 << bit
    path.write_bytes(raw)
    try:
        load_network(path)  # a number such as the dropout may still be one
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_the_length_of_the_header(path, bit):
    raw = bytearray(path.read_bytes())
    raw[1] ^= 1 << bit
    path.write_bytes(raw)
    failure(path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_pickle_is_not_run(path, tmp_path):
    mark = tmp_path / "mark"
    path.write_bytes(pickle.dumps(Trap(mark)))
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the trap works
    mark.unlink()
    failure(path)
    torch.save({"arch": "mifad", "trap": Trap(mark)}, path)
    failure(path)
    assert not mark.exists()


def test_a_saved_state_dict_is_not_taken(path, net):
    torch.save(net.state_dict(), path)
    assert "not a readable safetensors checkpoint" in failure(path)


def test_foreign_safetensors(path, net):
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.ones(2)}, path, metadata=metadata)
        assert "not one that mifad_lite wrote" in failure(path)
    save_file(net.state_dict(), path, metadata={"mifad": "{"})
    failure(path)
    write_tensors(path, net.state_dict(), {})
    failure(path)
    write_tensors(path, net.state_dict(), {"arch": "vgg", "config": {}})
    assert "vgg" in failure(path)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["columns.1.convs.2.weight", "norm.running_var", "head.weight"])
def test_weights_that_are_not_finite(path, net, bad, name):
    tensors, meta = read_tensors(path)
    tensors[name].view(-1)[-1] = bad
    write_tensors(path, tensors, meta)
    assert f"the tensor {name} holds NaN or infinity" in failure(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("embed.weight", lambda t: t[:, :-1].contiguous()),
        ("embed.weight", lambda t: t[None]),
        ("embed.weight", lambda t: None),
        ("embed.weight_of_something_else", lambda t: torch.ones(1)),
    ],
)
def test_wrong_shapes_and_names(path, name, change):
    tensors, meta = read_tensors(path)
    changed = change(tensors.pop(name, None))
    write_tensors(path, tensors if changed is None else {**tensors, name: changed}, meta)
    assert name in failure(path)  # which tensor it is


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", []),
        ("widths", [2, 2]),
        ("widths", "wide"),
        ("widths", None),
        ("kernel_sizes", [4, 4, 4]),
        ("kernel_sizes", 3),
        ("channels", 5),
        ("embedding", -1),
        ("embedding", 10**30),
        ("attention", "plenty"),
        ("fusion", ["add"]),
        ("head", None),
        ("dropout", 2),
        ("colour", "blue"),
    ],
)
def test_a_configuration_that_makes_no_sense(path, field, value):
    tensors, meta = read_tensors(path)
    meta["config"][field] = value
    write_tensors(path, tensors, meta)
    failure(path)


def test_a_type_of_number_that_cannot_be_checked(path):
    tensors, meta = read_tensors(path)
    tensors["embed.weight"] = tensors["embed.weight"].to(torch.float8_e4m3fn)
    write_tensors(path, tensors, meta)
    try:
        net, _ = load_network(path)
    except CheckpointError:
        return
    assert torch.equal(net.embed.weight, tensors["embed.weight"].float())


def test_a_failed_write_keeps_the_old_file(path, net, monkeypatch):
    before = path.read_bytes()

    def half(partial, raw):
        with open(partial, "wb") as file:
            file.write(raw[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=f"{re.escape(str(path))} was not written: disk full"):
        save_network(path, net)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_error_that_names_the_file(path, net):
    """What the operating system really says. A file may not grow beyond 999 bytes here."""
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (999, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_network(path, net)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_weights_is_noticed(net, tmp_path, where, bit):
    path = tmp_path / "net.safetensors"
    save_network(path, net)
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start + where % (len(raw) - start)] ^= 1 << bit
    path.write_bytes(raw)
    assert "damaged after it was written" in failure(path)


def test_other_metadata_is_noticed_and_a_file_without_checksum_is_read(path, net):
    """The sum covers what the file says of itself. The networks that ship have none."""
    raw = path.read_bytes()
    changed = raw.replace(rb"\"dropout\": 0.1", rb"\"dropout\": 0.2")
    assert changed != raw
    path.write_bytes(changed)
    assert "damaged after it was written" in failure(path)
    meta = {"arch": "mifad", "config": CONFIG.to_dict()}
    save_file(net.state_dict(), path, metadata={"mifad": json.dumps(meta)})
    assert torch.equal(load_network(path)[0].head.weight, net.head.weight)


def test_a_small_file_that_asks_for_a_huge_network(path, monkeypatch):
    """Its shapes are compared before a single weight is made."""
    tensors, meta = read_tensors(path)
    meta["config"]["embedding"] = 10**6
    write_tensors(path, tensors, meta)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *args: pytest.fail("it was built"))
    assert "embed.weight is torch.float32 [8, 12], not torch.float32 [1000000, 12]" in failure(path)


def test_metadata_nested_without_end_is_refused(tmp_path):
    deep = tmp_path / "deep.safetensors"
    save_file({"w": torch.zeros(1)}, deep, metadata={"mifad": "[" * 100_000})
    with pytest.raises(CheckpointError, match="not a readable"):
        load_network(deep)


def test_shrunk_to_half_it_is_the_same_network_rounded_to_16_bits(path, net, tmp_path):
    before = path.read_bytes()
    checkpoint.shrink(path, tmp_path / "small.safetensors")
    small, meta = load_network(tmp_path / "small.safetensors")
    assert path.read_bytes() == before
    assert meta == load_network(path)[1]
    stored = load_file(tmp_path / "small.safetensors")
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            assert stored[name].dtype == torch.float16
            assert small.state_dict()[name].dtype == torch.float32
            np.testing.assert_array_equal(small.state_dict()[name].numpy(), tensor.numpy().astype(np.float16))
        else:
            assert torch.equal(stored[name], tensor)


def test_what_does_not_fit_into_16_bits_is_not_shrunk(net, tmp_path):
    state = {**net.state_dict()}
    state["norm.running_var"] = state["norm.running_var"] + 1e6
    meta = {"arch": "mifad", "config": net.config.to_dict()}
    write_tensors(tmp_path / "large.safetensors", state, meta)
    with pytest.raises(CheckpointError, match=r"norm\.running_var holds values too large for 16 bits"):
        checkpoint.shrink(tmp_path / "large.safetensors", tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        checkpoint.shrink(tmp_path / "none.safetensors", tmp_path / "small.safetensors")
    assert not (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize("name", [name for name, path in checkpoint.NAMES.items() if path.exists()])
def test_networks_that_ship_load_by_name(name):
    net, _ = load_network(name)
    assert net(torch.rand(1, 1, 48, 48)).isfinite().all()
    assert checkpoint.NAMES[name].stat().st_size < 8e6


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (torch.compile, "OptimizedModule"),
        (torch.nn.DataParallel, "DataParallel"),
        (lambda net: accelerate(net, synthetic_faces(7).images), "FastMIFAD"),
        (lambda net: net.columns, "ModuleList"),
    ],
)
def test_what_is_no_network_is_not_saved(net, wrap, name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} is none of MIFADNet, ResNet18, ColumnsNet: save the network that"):
        save_network(tmp_path / "net.safetensors", wrap(net))
    assert not list(tmp_path.iterdir())
