"""A network as ONNX, for programs without PyTorch, and packed into a script, for pages without a server.

Needs the extra "export" (onnx, onnxscript): pip install "mifad-lite[export]".
"""

import base64
import copy
import gzip
import hashlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from .columns import DEPTH, FUSED_DEPTHS
from .data import CLASSES, SIZE
from .evaluate import evaluating
from .fast import FastMIFAD
from .model import MIFADNet
from .records import write_atomically


class Opened(nn.Module):
    """A network whose forward pass also returns what happens inside, as a tuple in the order of `names`.

    Of every network: logits (B, 7).  Of a MIFADNet, with `inside`: embedding (B, E); with the cosine head cosines
    (B, 7); columnK_depthD (B, C, H, W) for column K = 1, 2, ... and D = 1..6, after the ReLU and before a pool; and for
    D = 4, 5, 6 gateD (B, C, 12, 12), channelD (B, C, C) and spatialD (B, 144, 144) where it has those attentions, with
    pools after 1 and 3. The names are looked up in evaluation mode, and the network is left as it was.
    """

    def __init__(self, net: nn.Module, inside: bool = False):
        super().__init__()
        self.net, self.inside = net, inside
        weight = next(net.parameters())
        with torch.no_grad(), evaluating(net):
            self.names = list(self.named(weight.new_zeros(2, 1, SIZE, SIZE)))

    def named(self, x: Tensor) -> dict[str, Tensor]:
        net = self.net
        if not isinstance(net, MIFADNet):
            return {"logits": net(x)}
        x = net.normalise(x)
        every = [column(x, range(1, DEPTH + 1)) for column in net.columns]
        # With maps the attention is the plain formula. The faster routes exist in PyTorch alone.
        embedding, seen = net.join([[maps[d - 1] for d in FUSED_DEPTHS] for maps in every], return_maps=True)
        out = {"logits": net.classify(embedding)}
        if self.inside:
            out["embedding"] = embedding
            if net.config.head == "cosine":
                out["cosines"] = net.head(embedding)
            out |= {f"column{k}_depth{d}": m for k, maps in enumerate(every, 1) for d, m in enumerate(maps, 1)}
            out |= {f"{name}{depth}": m for depth, maps in seen.items() for name, m in maps.items()}
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(x).values())


def export(net: nn.Module, path: Path | str, inside: bool = False, meta: dict | None = None) -> None:
    """Write a network as it is in evaluation mode as ONNX: input "face" (B, 1, 48, 48) float32 in [0, 1], any B; see
    `Opened`. What is exported is a copy on the CPU in float32: the network stays as it is.

    path: where it goes. Under a name that ends in .js it is a script that puts the same model, compressed, and `meta`
        into window.MIFAD_NETWORKS of a page, under meta["name"] or the file's own name.
    inside: whether the maps, the embedding and the cosines are outputs, too.  meta: JSON-able, kept as a property.
    Raises ValueError where the extra is not installed, for a name with another ending, and for 8-bit integers.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".js"):
        raise ValueError(
            f"{path}: export writes a model (.onnx) or a script for a page (.js): choose one of these endings"
        )
    if isinstance(net, FastMIFAD):
        raise ValueError("a network on 8-bit integers is not exported: give the network that it was made of")
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f'export needs the package {name}: pip install "mifad-lite[export]"')
    opened = Opened(copy.deepcopy(net).cpu().float().eval(), inside).eval()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # how its stages went
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what torch says of its own parts
            program = torch.onnx.export(
                opened,
                (torch.zeros(2, 1, SIZE, SIZE),),
                dynamo=True,
                verbose=False,
                input_names=["face"],
                output_names=opened.names,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    finally:
        quiet.setLevel(level)
    model = program.model_proto
    del model.graph.value_info[:]  # shapes in between, and where in our code a node came from: a runtime needs neither
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    about = {"name": path.stem, "classes": list(CLASSES), "inside": inside, **describe(net), **(meta or {})}
    prop = model.metadata_props.add()
    prop.key, prop.value = "mifad", json.dumps(about)
    data = model.SerializeToString()
    if path.suffix == ".js":
        data = page_script(data, about).encode()
    write_atomically(path, lambda p: p.write_bytes(data))


def describe(net: nn.Module) -> dict:
    """Parameters; of a MIFADNet its kernels and what training gave the attentions as weights (None: not there)."""
    about = {"parameters": sum(p.numel() for p in net.parameters())}
    if isinstance(net, MIFADNet):
        blocks = [fusion.attention for fusion in net.fusions]
        about["kernels"] = list(net.config.kernel_sizes)
        about["alpha"] = [b.channel and b.channel.alpha.item() for b in blocks]
        about["beta"] = [b.spatial and b.spatial.beta.item() for b in blocks]
    return about


def page_script(model: bytes, about: dict) -> str:
    """The model as a script. A page that is opened from disk may load scripts, but no other files."""
    about = about | {"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    packed = base64.b64encode(gzip.compress(model, 9, mtime=0)).decode()
    content = json.dumps(about | {"model": packed})
    return f"(window.MIFAD_NETWORKS ??= {{}})[{json.dumps(about['name'])}] = {content};\n"


def read_page_script(path: Path | str) -> tuple[bytes, dict]:
    """Undo `page_script`: the ONNX model's bytes, and what the page is told about it."""
    text = Path(path).read_text()
    about = json.loads(text[text.index(" = ") + 3 : text.rindex(";")])
    return gzip.decompress(base64.b64decode(about.pop("model"))), about
