"""Networks on disk: weights in safetensors, what they are in its metadata. Nothing is unpickled, ever."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .baseline import ColumnsNet, ResNet18, ResNetConfig
from .model import MIFADConfig, MIFADNet
from .records import write_atomically

SHIPPED = Path(__file__).parent / "pretrained" / "mifad_lite.safetensors"  # "lite", trained on FER2013
DRAWN = SHIPPED.with_name("mifad_tiny_drawn.safetensors")  # "tiny", trained on drawn faces: what the chapters look into
FLAGSHIP = SHIPPED.with_name("mifad_flagship.safetensors")  # "flagship", the best one on FER2013; linear head
NAMES = {"lite": SHIPPED, "drawn": DRAWN, "flagship": FLAGSHIP}
ARCHITECTURES = {
    "mifad": (MIFADNet, MIFADConfig),
    "resnet18": (ResNet18, ResNetConfig),
    "columns": (ColumnsNet, MIFADConfig),
}
LARGEST = 10**9  # parameters: 4 GB. The largest preset has 7 million.
SIZES = ("width", "widths", "kernel_sizes", "channels", "pool_grid", "embedding", "classes")  # what makes it large


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged, or of something else. The message is one sentence."""


def build(arch: str, config: dict) -> nn.Module:
    """A fresh network from its architecture's name (a key of ARCHITECTURES) and a dict of its configuration.

    Raises ValueError for an unknown name or configuration, and for more parameters than LARGEST.
    """
    if arch not in tuple(ARCHITECTURES) or not isinstance(config, dict):
        raise ValueError(f"arch {arch!r} with network {config!r} is none: use one of {', '.join(ARCHITECTURES)}")
    network, configuration = ARCHITECTURES[arch]
    if unknown := config.keys() - {f.name for f in fields(configuration)}:
        raise ValueError(f"{arch} has no setting {sorted(map(str, unknown))[0]!r}")
    config = configuration(**config)
    with torch.device("meta"):  # counted without taking memory
        size = sum(p.numel() for p in network(config).parameters())
    if size > LARGEST:
        lower = ", ".join(f.name for f in fields(config) if f.name in SIZES)
        raise ValueError(f"the network would have {size:,} parameters, {LARGEST:,} at most: lower one of {lower}")
    return network(config)


def checksum(tensors: dict[str, Tensor], meta: str) -> str:
    """SHA-256 of the metadata's text, then of each tensor's name, type, shape and bytes, by name."""
    digest = hashlib.sha256(meta.encode())
    for name, t in sorted(tensors.items()):
        digest.update(f"\0{name} {t.dtype} {list(t.shape)}\0".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_tensors(path: Path | str, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write tensors and a JSON-able dict as one safetensors file, atomically, with their `checksum`."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(meta)
    # save_file would write a temporary file of its own, which kill -9 leaves behind
    raw = save(tensors, {"mifad": text, "sha256": checksum(tensors, text)})
    write_atomically(path, lambda p: p.write_bytes(raw))


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_tensors` wrote. Raises CheckpointError for anything else.

    A file without a checksum is read as well: the networks that ship are older than it.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            meta = header.get("mifad")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if meta is None:
            raise CheckpointError(f"{path}: a safetensors file, but not one that mifad_lite wrote")
        if header.get("sha256", "") not in ("", checksum(tensors, meta)):
            raise CheckpointError(f"{path}: the file was damaged after it was written (its checksum is another)")
        return tensors, json.loads(meta)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors checkpoint ({error})") from None


def save_network(path: Path | str, net: nn.Module, **meta) -> None:
    """Save weights and buffers with what is needed to build the network again, and any further `meta`.

    Raises ValueError for anything but a network of ARCHITECTURES: one that is compiled or wrapped, or has 8 bits.
    """
    arch = next((name for name, (network, _) in ARCHITECTURES.items() if isinstance(net, network)), None)
    if arch is None:
        names = ", ".join(network.__name__ for network, _ in ARCHITECTURES.values())
        raise ValueError(f"{type(net).__name__} is none of {names}: save the network that it was made of")
    save_weights(path, arch, net.config, net.state_dict(), **meta)


def save_weights(path: Path | str, arch: str, config, weights: dict[str, Tensor], **meta) -> None:
    """`save_network` for weights that no network holds at the moment."""
    write_tensors(path, weights, {"arch": arch, "config": config.to_dict(), **meta})


def load_network(path: Path | str | None = None) -> tuple[nn.Module, dict]:
    """The network of a checkpoint in evaluation mode, and its metadata.

    path: a file, or "lite", "drawn" or "flagship" for one of those that ship. None means "lite".
    Raises CheckpointError for a missing, damaged or foreign file, or weights that are not finite.
    """
    path = SHIPPED if path is None else NAMES.get(str(path), path)
    tensors, meta = read_tensors(path)
    if isinstance(meta, dict) and "arch" not in meta and {"history", "best"} <= meta.keys():  # see train.save_state
        raise CheckpointError(f"{path}: this is the state of a run; its network is in best.safetensors beside it")
    try:
        with torch.device("meta"):  # shapes alone: a small file cannot ask for the memory of a huge network
            wanted = build(meta["arch"], meta["config"]).state_dict()
        for name in sorted(wanted.keys() | tensors.keys()):
            have, want = tensors.get(name), wanted.get(name)
            if have is None or want is None:
                raise ValueError(f"{name} is {'missing' if have is None else 'none of its tensors'}")
            if have.shape != want.shape or have.is_floating_point() != want.is_floating_point():
                raise ValueError(f"{name} is {have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}")
        net = build(meta["arch"], meta["config"])
        net.load_state_dict(tensors)
        bad = next((n for n, t in tensors.items() if t.is_floating_point() and not t.float().isfinite().all()), None)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        first = " ".join(str(error).split()[:40])
        raise CheckpointError(f"{path}: the weights do not fit the network they name ({first})") from None
    if bad:
        raise CheckpointError(f"{path}: the tensor {bad} holds NaN or infinity")
    return net.eval(), meta


def weights_of(net: nn.Module) -> str:
    """The sha256 of a network's weights and buffers."""
    return checksum({name: tensor.cpu() for name, tensor in net.state_dict().items()}, "")


def difference(there: nn.Module, here: nn.Module) -> str | None:
    """How one network differs from another in kind or configuration, as the end of a sentence; None if it does not."""
    if type(there) is not type(here):
        return f"is a {type(there).__name__}, and not a {type(here).__name__}"
    theirs, ours = there.config.to_dict(), here.config.to_dict()
    name = next((name for name, value in ours.items() if theirs[name] != value), None)
    return name and f"has {name} = {theirs[name]}, and not {ours[name]}"


def shrink(source: Path | str, target: Path | str) -> None:
    """Copy a checkpoint with every float in 16 bits: half the size, and `load_network` reads it as before.

    Raises CheckpointError for a source that is no checkpoint, or holds a value beyond what 16 bits can say (65,504).
    """
    load_network(source)  # refuses what is not a network
    tensors, meta = read_tensors(NAMES.get(str(source), source))
    half = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    if bad := next((name for name, t in half.items() if t.is_floating_point() and not t.isfinite().all()), None):
        raise CheckpointError(f"{source}: the tensor {bad} holds values too large for 16 bits; ship it as it is")
    write_tensors(target, half, meta)
