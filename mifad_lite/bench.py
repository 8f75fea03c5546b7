"""How fast it is: the real loop, its columns alone, the ResNet baseline, and the loop that most people would write.

`bench` compares networks and loops at one size. `bench_scaling` follows one network over batch, width and resolution.
`bench_graphs` is for a GPU: the loop with and without CUDA graphs and torch.compile. `bench_gates` is for a CPU: what
the gates' smallest numbers cost.
"""

import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from . import fusion
from .attention import RowBlockAttention, tabulated_attention, tabulation_error_bound
from .augment import Augmentation
from .baseline import ResNetConfig
from .checkpoint import build, load_network
from .data import FaceData, FaceSet, content_sha256
from .evaluate import predict_logits
from .fast import FastMIFAD, accelerate
from .losses import AngularDistanceLoss
from .model import PRESETS, MIFADConfig
from .records import provenance
from .synthetic import synthetic_faces
from .train import Objective, TrainConfig, fit, make_optimizer


class NaiveFaces(Dataset):
    """One PIL image at a time: mirror, rotate, shift, contrast, brightness, erase, as in most tutorials."""

    def __init__(self, faces: FaceSet):
        self.images, self.labels = faces.images[:, 0].numpy(), faces.labels.tolist()
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, rng = Image.fromarray(self.images[index]), self.rng
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        shift = tuple(rng.uniform(-3, 3, 2))
        image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, translate=shift)
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.8, 1.2))
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
        x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]
        if rng.random() < 0.1:
            top, left = rng.integers(0, 32, 2)
            x[:, top : top + 16, left : left + 16] = torch.rand(1, 16, 16)
        return x, self.labels[index]


def naive_epoch(faces: FaceSet, config: TrainConfig) -> float:
    """Seconds for one epoch of the naive loop: float32, NCHW, DataLoader, plain AdamW."""
    net = build(config.arch, config.network).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    loss_of = AngularDistanceLoss(config.network["scale"], config.margin)
    began = time.perf_counter()
    for x, y in DataLoader(NaiveFaces(faces), config.batch, shuffle=True, drop_last=True):
        optimizer.zero_grad()
        loss_of(net.head(net.features(x)), y).backward()
        optimizer.step()
    return time.perf_counter() - began


def fit_epoch(data: FaceData, config: TrainConfig) -> float:
    """Seconds for the fastest of two epochs of `fit`, with two images to evaluate after each."""
    _, record = fit(data, replace(config, epochs=2), progress=False)
    return min(epoch["seconds"] for epoch in record["epochs"])


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several calls, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def plain_attention(v: Tensor, values: Tensor) -> Tensor:
    """The formula as it stands, with the N x N matrix: v (B, N), values (B, N, C) -> (B, N, C)."""
    return torch.softmax(v[:, :, None] * v[:, None, :], dim=-1) @ values


def scaled_dot_product(v: Tensor, values: Tensor) -> Tensor:
    """PyTorch's fused kernel, v padded with zeros to the values' width: v (B, N), values (B, N, C) -> (B, N, C)."""
    query = F.pad(v[:, None, :, None], (0, values.shape[-1] - 1))
    return F.scaled_dot_product_attention(query, query, values[:, None], scale=1.0)[:, 0]


EXACT = {
    "plain formula, HW x HW matrix": plain_attention,
    "row blocks": RowBlockAttention.apply,
    "scaled dot product": scaled_dot_product,
}


def attention_inputs(batch: int, n: int, channels: int, device: str) -> tuple[Tensor, Tensor]:
    """v (B, N) and values (B, N, C) in bfloat16, standard normal, asking for gradients."""
    draw = torch.Generator().manual_seed(0)
    shapes = (batch, n), (batch, n, channels)
    v, values = (torch.randn(shape, generator=draw).to(device, torch.bfloat16).requires_grad_() for shape in shapes)
    return v, values


def bench_attention(device: str, batch: int = 64, channels: int = 48, side: int = 12) -> list[dict]:
    """Spatial attention forwards and backwards in bfloat16, three ways, in milliseconds."""
    v, values = attention_inputs(batch, side * side, channels, device)
    return [
        {"name": name, "milliseconds": round(1e3 * fastest(lambda way=way: way(v, values).sum().backward(), 10), 3)}
        for name, way in EXACT.items()
    ]


def bench(batch: int = 128, steps: int = 6, repeats: int = 3, log: Callable[[str], None] = print) -> dict:
    """Measure and return a record. Every variant trains on the same drawn faces at the same batch, in turns."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    faces = synthetic_faces(batch * steps, seed=0)
    few = faces.subset(slice(0, 2))
    data = FaceData(faces, few, few, "drawn faces", content_sha256(faces, few, few))
    lite, base = PRESETS["lite"].to_dict(), PRESETS["base"].to_dict()
    fast = TrainConfig(batch=batch)
    linear = {"loss": "softmax", "arch": "columns"}
    variants = {
        "lite, columns alone": replace(fast, network={**lite, "head": "linear"}, **linear),
        "lite": replace(fast, network=lite),
        "base, columns alone": replace(fast, network={**base, "head": "linear"}, **linear),
        "base": replace(fast, network=base),
        "wide": replace(fast, network=PRESETS["wide"].to_dict()),
        "wide, windows of 40 pixels": replace(
            fast, network=PRESETS["wide"].to_dict(), augmentation=replace(fast.augmentation, crop=40)
        ),
        "ResNet-18, width 64": replace(fast, arch="resnet18", network=ResNetConfig(64).to_dict(), loss="softmax"),
        "ResNet-18, width 16": replace(fast, arch="resnet18", network=ResNetConfig(16).to_dict(), loss="softmax"),
    }
    switches = {  # lite with one thing changed: what each buys
        "float32, contiguous": {"bf16": False, "channels_last": False},
        "bfloat16, contiguous": {"channels_last": False},
        "no augmentation": {"augmentation": Augmentation.none()},
        "no weight average": {"ema": 0.0},
    }
    if device == "cuda" or shutil.which("c++"):  # the compiler of torch.compile
        switches["compiled"] = {"compile": True}
    switched = {name: replace(fast, network=lite, **change) for name, change in switches.items()}
    seconds: dict[str, float] = {}
    for _ in range(repeats):  # in turns, so that a slow minute of the machine hits every variant
        for name, config in {**variants, **switched}.items():
            seconds[name] = min(seconds.get(name, float("inf")), fit_epoch(data, config))
        naive = min(seconds.get("lite, naive loop", float("inf")), naive_epoch(faces, fast))
        seconds["lite, naive loop"] = naive
    training = [
        {"name": name, "images_per_second": round(batch * steps / s, 1), "step_milliseconds": round(1e3 * s / steps, 2)}
        for name, s in seconds.items()
        if name not in switched
    ]
    inference = []
    runners: dict[str, nn.Module] = {
        name: build(config.arch, config.network).to(device, memory_format=torch.channels_last).eval()
        for name, config in variants.items()
        if "windows" not in name
    }
    if device == "cpu":
        runners |= {f"{name}, 8 bits": accelerate(runners[name], faces.images[:256]) for name in ("lite", "wide")}
    ways: dict[str, dict] = {"images_per_second": {"batch": 64}}
    if device == "cpu":
        ways["images_per_second_at_once"] = {"batch": 64, "at_once": torch.get_num_threads()}
    best: dict[tuple[str, str], float] = {}
    for _ in range(repeats):  # in turns, too
        for name, net in runners.items():
            bf16 = not isinstance(net, FastMIFAD)
            calls = {
                way: lambda n=net, b=bf16, how=how: predict_logits(n, faces.images[:512], bf16=b, **how)
                for way, how in ways.items()
            }
            calls["one"] = lambda n=net: predict_logits(n, faces.images[:1])
            for way, call in calls.items():
                best[name, way] = min(best.get((name, way), float("inf")), fastest(call, 10 if way == "one" else 2))
    for name in runners:
        row = {"name": name}
        row["parameters"] = sum(p.numel() for p in runners[name.removesuffix(", 8 bits")].parameters())
        row |= {way: round(min(512, len(faces)) / best[name, way], 1) for way in ways}
        inference.append({**row, "one_face_milliseconds": round(1e3 * best[name, "one"], 2)})
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    record = {
        "kind": "bench",
        **provenance(data.name, data.sha256, device),
        "seed": 0,
        "batch": batch,
        "steps": steps,
        "repeats": repeats,
        "training": training,
        "switches": {name: round(seconds["lite"] / seconds[name], 3) for name in switched},
        "inference": inference,
        "spatial_attention": bench_attention(device),
        "lite_over_columns": round(seconds["lite"] / seconds["lite, columns alone"], 3),
        "naive_over_ours": round(seconds["lite, naive loop"] / seconds["lite"], 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20),
    }
    if device == "cuda":
        record["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    log(f"{record['device']}, batch {batch}")
    log("training")
    for row in training:
        log(f"  {row['name']:22}{row['images_per_second']:9.1f} images/s{row['step_milliseconds']:9.1f} ms a step")
    log("lite with one thing changed, speed against lite")
    for name, ratio in record["switches"].items():
        log(f"  {name:22}{ratio:9.2f}")
    log("inference, batch 64 in bfloat16; one face in float32; or both on 8-bit integers")
    for row in inference:
        beside = f"{row['images_per_second_at_once']:9.1f} with a batch a thread" if device == "cpu" else ""
        rates = f"{row['images_per_second']:9.1f} images/s{beside}"
        log(f"  {row['name']:22}{rates}{row['one_face_milliseconds']:9.2f} ms a face")
    log("spatial attention, forwards and backwards, batch 64, 144 positions, 48 channels")
    for row in record["spatial_attention"]:
        log(f"  {row['name']:32}{row['milliseconds']:8.2f} ms")
    log(f"whole lite step over its columns alone: {record['lite_over_columns']:.2f}")
    log(f"naive loop over ours, same network: {record['naive_over_ours']:.2f}")
    log(f"peak memory {record['peak_memory_mib']:,} MiB")
    return record


class PeakBytes(TorchDispatchMode):
    """The largest sum of bytes of tensors that were alive at once: those given, and those that operations make inside.

    A storage counts once, however many tensors share it. Scratch memory inside a kernel is not seen.
    """

    def __init__(self, *given: Tensor):
        super().__init__()
        self.peak = 0
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.add(given)

    def add(self, tensors) -> None:
        for t in tensors:
            storage = t.untyped_storage()
            self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.add(t for t in tree_leaves(out) if isinstance(t, Tensor))
        return out


def scale_attention(device: str, repeats: int, sides=(6, 12, 24, 36, 48), batch=8, channels=48, knots=16) -> dict:
    """Spatial attention against the number of places: milliseconds and memory of four routes, error of the table.

    A plain formula whose matrix would take more than a gigabyte is left out. Errors are over the range of the values,
    on the first sample: of the table in float64, of the plain formula in bfloat16.
    """
    table = f"table of {knots} knots"
    ways = {**EXACT, table: lambda v, values: tabulated_attention(v, values, knots)}
    routes: dict[str, list[dict]] = {name: [] for name in ways}
    errors = []
    for side in sides:
        n = side * side
        v, values = attention_inputs(batch, n, channels, device)
        pull = torch.ones_like(values)
        for name, way in ways.items():
            if way is plain_attention and v.element_size() * batch * n * n > 1e9:
                continue

            def run(way=way, v=v, values=values, pull=pull) -> None:
                torch.autograd.grad(way(v, values), (v, values), pull)

            seconds = fastest(run, repeats)
            with PeakBytes(v, values, pull) as memory:
                run()
            row = {"side": side, "milliseconds": round(1e3 * seconds, 3), "mib": round(memory.peak / 2**20, 3)}
            routes[name].append(row)
        first = v[:1].detach(), values[:1].detach()
        wide = [x.double() for x in first]
        exact = plain_attention(*wide)
        span = (wide[1].amax(1) - wide[1].amin(1)).max()
        off = {
            "error": tabulated_attention(*wide, knots) - exact,
            "bound": tabulation_error_bound(*wide, knots),
            "bfloat16": plain_attention(*first) - exact,
        }
        errors.append({"side": side, **{k: float(f"{(x.abs().max() / span).item():.3g}") for k, x in off.items()}})
    return {
        "batch": batch,
        "channels": channels,
        "memory": "largest sum of bytes of tensors alive at once, inputs and gradients too; scratch of kernels not",
        "routes": routes,
        "table": table,
        "errors": errors,
    }


def training_step(config: TrainConfig, batch: int, side: int, device: str) -> Callable[[], None]:
    """A function that makes one step on random images: forward, loss, backward, clip, optimizer. No augmentation."""
    torch.manual_seed(0)
    net = build(config.arch, config.network).to(device, memory_format=torch.channels_last).train()
    with torch.no_grad():
        width = net.eval().features(torch.zeros(1, 1, side, side, device=device)).shape[1]
    net.train()
    objective = Objective(config, width, net.config.classes).to(device)
    optimizer = make_optimizer(config, net, objective)
    x = torch.rand(batch, 1, side, side, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch, device=device) % net.config.classes

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss, _ = objective(net, net.features(x), y, 1.0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimizer.step()

    return step


def gflop(run: Callable[[], object]) -> float:
    """Billions of floating point operations in the convolutions and matrix products of a call, 2 a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def forward_gflop(arch: str, network: dict, side: int = 48) -> float:
    """GFLOP of one image through a network in evaluation."""
    net = build(arch, network).eval()
    with torch.no_grad():
        return gflop(lambda: net(torch.rand(1, 1, side, side)))


def matmul_peak(dtype: torch.dtype, sizes: tuple[int, ...], device: str, repeats: int) -> dict:
    """GFLOP/s of the fastest product of two n x n matrices over the sizes n."""
    found = {}
    for n in sizes:
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        found[n] = 2e-9 * n**3 / fastest(lambda a=a, b=b: a @ b, repeats)
    n = max(found, key=found.get)
    return {"n": n, "gflop_per_second": round(found[n], 1)}


def bench_scaling(
    repeats: int = 3,
    network: MIFADConfig = PRESETS["lite"],
    batches: tuple[int, ...] = (8, 16, 32, 64, 128, 256),
    factors: tuple[float, ...] = (0.25, 0.5, 1, 1.5, 2),
    sides: tuple[int, ...] = (24, 32, 40, 48, 64, 96),
    batch: int = 64,
    places: tuple[int, ...] = (6, 12, 24, 36, 48),
    sizes: tuple[int, ...] | None = None,
    log: Callable[[str], None] = print,
) -> dict:
    """A record of what a training step costs against batch, width and resolution, and attention against H W.

    network: the one followed over `batches` at 48 x 48; over `factors`, which multiply all its widths and channels,
    and over `sides` of the images, both at `batch`.  places: sides of the maps for `scale_attention`.
    sizes: of the matrices whose product gives the machine's peak.
    Steps run in bfloat16, channels_last, on random images.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = sizes or ((4096, 8192) if device == "cuda" else (1024, 2048))

    def measure(config: MIFADConfig, batch: int, side: int = 48) -> dict:
        train = TrainConfig(network=config.to_dict())
        seconds = fastest(training_step(train, batch, side, device), repeats)
        forward = round(forward_gflop("mifad", train.network, side), 5)
        return {"images_per_second": round(batch / seconds, 2), "forward_gflop": forward}

    def scaled(factor: float) -> MIFADConfig:
        widths = tuple(tuple(max(1, round(factor * w)) for w in column) for column in network.column_widths())
        return replace(network, widths=widths, channels=max(1, round(factor * network.channels)))

    half, single = (matmul_peak(t, sizes, device, 2 * repeats) for t in (torch.bfloat16, torch.float32))
    by_batch = [{"batch": b, **measure(network, b)} for b in batches]
    by_width = [{"factor": f, **measure(scaled(f), batch)} for f in factors]
    by_side = [{"side": side, **measure(network, batch, side)} for side in sides]
    attention = scale_attention(device, 3 * repeats, places)
    step = gflop(training_step(TrainConfig(network=network.to_dict()), batch, 48, device)) / batch
    rate = max(row["images_per_second"] for row in by_batch)
    networks = {name: ("mifad", PRESETS[name].to_dict()) for name in ("lite", "base", "wide")}
    networks |= {f"ResNet-18, width {w}": ("resnet18", ResNetConfig(w).to_dict()) for w in (64, 16)}
    images = torch.rand(max(batches), 1, 48, 48, generator=torch.Generator().manual_seed(0))
    record = {
        "kind": "scaling",
        **provenance("random numbers", hashlib.sha256(images.numpy().tobytes()).hexdigest(), device),
        "seed": 0,
        "repeats": repeats,
        "step": "forward, loss, backward, clip, optimizer; bfloat16, channels_last; no augmentation, no weight average",
        "flop": "convolutions and matrix products, 2 a multiply-add, of one image",
        "network": network.to_dict(),
        "batch": by_batch,
        "width": {"batch": batch, "rows": by_width},
        "resolution": {"batch": batch, "rows": by_side},
        "attention": attention,
        "peak": {"bfloat16": half, "float32": single},
        "forward_gflop": {name: round(forward_gflop(*spec), 4) for name, spec in networks.items()},
        "step_gflop": round(step, 4),
        "images_per_second": rate,
        "share_of_peak": round(rate * step / half["gflop_per_second"], 4),
        "images_per_second_at_peak": round(half["gflop_per_second"] / step, 1),
    }
    log(f"{record['device']}: products of matrices reach {half['gflop_per_second']:,.0f} GFLOP/s in bfloat16,")
    log(f"{single['gflop_per_second']:,.0f} in float32. A training step takes {step:.2f} GFLOP an image.")
    for title, name, rows in (
        ("batch", "batch", by_batch),
        (f"width, batch {batch}", "factor", by_width),
        (f"side of the image, batch {batch}", "side", by_side),
    ):
        log(f"training step against {title}")
        for row in rows:
            log(f"  {row[name]:5}{row['images_per_second']:9.1f} images/s{row['forward_gflop']:9.4f} GFLOP forwards")
    log(f"spatial attention, forwards and backwards, batch {attention['batch']}")
    for name, rows in attention["routes"].items():
        for row in rows:
            log(f"  {name:32}{row['side']:4}{row['milliseconds']:10.2f} ms{row['mib']:9.2f} MiB")
    log(f"{attention['table']}, over the range of the values")
    for row in attention["errors"]:
        log(f"  side {row['side']:3}: error {row['error']:.1e}, bound {row['bound']:.1e}")
    log(f"best {rate:.0f} images/s, {100 * record['share_of_peak']:.1f} % of the peak")
    return record


GRAPHED = {  # what `bench_graphs` trains: the network's name, and what its configuration changes
    "lite": {"network": PRESETS["lite"].to_dict()},
    "wide": {"network": PRESETS["wide"].to_dict()},
    "base": {"network": PRESETS["base"].to_dict()},
    "ResNet-18, width 32": {"arch": "resnet18", "network": ResNetConfig(32).to_dict(), "loss": "softmax"},
    "ResNet-18, width 64": {"arch": "resnet18", "network": ResNetConfig(64).to_dict(), "loss": "softmax"},
}


def bench_graphs(
    batches: tuple[int, ...] = (128, 512),
    images: int = 8192,
    epochs: int = 2,
    networks: dict[str, dict] = GRAPHED,
    compiled: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (4096, 8192),
    log: Callable[[str], None] = print,
    save: Callable[[dict], None] = lambda record: None,
) -> dict:
    """A record of the whole loop of `fit` on a GPU, by network and batch, with graphs and without, and compiled.

    Every row is the fastest epoch after the first, on random images of 48 x 48 pixels, augmented; the first epoch's
    seconds hold what recording or compiling takes.  The first network is measured without graphs, too.
    compiled: networks that are also compiled, at the largest batch.
    sizes: of the matrices whose product gives the card's peak in bfloat16.  save: called with the record after each
    row, as looking for the fastest convolutions takes seconds a row, and a lent GPU can be gone before the last one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(0)
    faces = FaceSet(
        torch.randint(256, (images, 1, 48, 48), generator=draw, dtype=torch.uint8),
        torch.randint(7, (images,), generator=draw),
    )
    few = faces.subset(slice(0, 2))
    data = FaceData(faces, few, few, "random numbers", content_sha256(faces, few, few))
    peak = matmul_peak(torch.bfloat16, sizes, device, 10)
    record = {
        "kind": "graphs",
        **provenance(data.name, data.sha256, device),
        "seed": 0,
        "images": images,
        "peak": peak,
        "training": [],
        "inference": [],
    }
    log(f"{record['device']}: products of matrices reach {peak['gflop_per_second']:,.0f} GFLOP/s in bfloat16")

    def measure(name: str, batch: int, compile: bool, graph: bool) -> None:
        config = TrainConfig(**networks[name], batch=batch, epochs=epochs, compile=compile, graph=graph)
        _, run = fit(data, config, progress=False)
        first, *rest = (epoch["seconds"] for epoch in run["epochs"])
        rate = images // batch * batch / min(rest)
        row = {"name": name, "batch": batch, "compile": compile, "graph": graph}
        row |= {"images_per_second": round(rate), "step_milliseconds": round(1e3 * batch / rate, 2)}
        row |= {"first_epoch_seconds": first, "share_of_peak": round(rate * work[name] / peak["gflop_per_second"], 4)}
        record["training"].append(row)
        save(record)
        how = ("compiled, " if compile else "") + ("graph" if graph else "no graph")
        share = 100 * row["share_of_peak"]
        log(f"  {name:20} batch {batch:4} {how:20}{rate:10,.0f} images/s {share:6.1f} % of the peak")

    work = {n: gflop(training_step(TrainConfig(**changes), 8, 48, "cpu")) / 8 for n, changes in networks.items()}
    record["step_gflop"] = {name: round(amount, 4) for name, amount in work.items()}
    for name in networks:
        for batch in batches:
            measure(name, batch, False, True)
    for batch in batches:
        measure(next(iter(networks)), batch, False, False)
    for name in compiled:
        for graph in (False, True):
            measure(name, max(batches), True, graph)
    for name, changes in networks.items():
        config = TrainConfig(**changes)
        net = build(config.arch, config.network).to(device, memory_format=torch.channels_last).eval()
        row = {"name": name}
        for batch in (64, 1024):
            some = faces.images[: 4 * batch]
            seconds = fastest(lambda n=net, x=some, b=batch: predict_logits(n, x, bf16=True, batch=b), 5)
            row[f"images_per_second_{batch}"] = round(len(some) / seconds)
        row["one_face_milliseconds"] = round(1e3 * fastest(lambda n=net: predict_logits(n, faces.images[:1]), 20), 2)
        record["inference"].append(row)
        log(f"  {name:20} answers {row['images_per_second_1024']:10,.0f} images/s at batch 1,024")
    if device == "cuda":
        record["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return record


def bench_gates(
    names: tuple[str, ...] = ("lite", "flagship"),
    batch: int = 32,
    repeats: int = 4,
    log: Callable[[str], None] = print,
) -> dict:
    """A record of a step on a CPU with gates whose logits are cut (`fusion.STEEPEST`) and not, untrained and trained.

    A step: forward, cross-entropy, backward, in float32, on drawn faces.  subnormal: share of subnormal numbers among
    the gradients of the gates' logits, by depth, where nothing is cut.  names: checkpoints, as `load_network` has them.
    """
    faces = synthetic_faces(batch, seed=0)
    x, tiny = faces.images.float() / 255, torch.finfo(torch.float32).tiny
    rows = []
    limit = fusion.STEEPEST
    for name in names:
        torch.manual_seed(0)
        trained = load_network(name)[0]
        for state, net in ("untrained", build("mifad", trained.config.to_dict())), ("trained", trained):
            net.train()
            shares: list[float] = []

            def look(module, given, grads, shares=shares) -> None:
                shares.append(((grads[0] != 0) & (grads[0].abs() < tiny)).double().mean().item())

            def step(net=net) -> None:
                net.zero_grad()
                F.cross_entropy(net.classify(net.features(x)), faces.labels).backward()

            times = {"uncut": float("inf"), "cut": float("inf")}
            try:
                fusion.STEEPEST = float("inf")
                hooks = [f.merge.register_full_backward_hook(look) for f in net.fusions]
                step()
                for hook in hooks:
                    hook.remove()
                for _ in range(repeats):  # in turns, so that a slow minute of the machine hits both
                    for way, value in ("uncut", float("inf")), ("cut", limit):
                        fusion.STEEPEST = value
                        times[way] = min(times[way], fastest(step, 1))
            finally:
                fusion.STEEPEST = limit
            times = {way: round(1e3 * seconds, 1) for way, seconds in times.items()}
            subnormal = [float(f"{share:.3g}") for share in reversed(shares)]  # backwards, the last one came first
            rows.append({"name": name, "state": state, "subnormal": subnormal, "milliseconds": times})
            log(f"{name:10}{state:10} {times['uncut']:8.1f} ms, cut {times['cut']:8.1f} ms, subnormal {subnormal}")
    data = FaceData(faces, faces, faces, "drawn faces", content_sha256(faces, faces, faces))
    origin = provenance(data.name, data.sha256, "cpu")
    return {"kind": "gates", **origin, "seed": 0, "batch": batch, "repeats": repeats, "limit": limit, "rows": rows}
