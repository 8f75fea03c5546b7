"""How fast it is: the real loop, its columns alone, the ResNet baseline, and the loop that most people would write."""

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
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .attention import RowBlockAttention
from .augment import Augmentation
from .baseline import ResNetConfig
from .checkpoint import build
from .data import FaceData, FaceSet, content_sha256
from .evaluate import predict_logits
from .fast import FastMIFAD, accelerate
from .losses import AngularDistanceLoss
from .model import PRESETS
from .records import provenance
from .synthetic import synthetic_faces
from .train import TrainConfig, fit


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


def bench_attention(device: str, batch: int = 64, channels: int = 48, side: int = 12) -> list[dict]:
    """Spatial attention forwards and backwards in bfloat16, three ways, in milliseconds."""
    n = side * side
    v = torch.randn(batch, n, device=device, dtype=torch.bfloat16, requires_grad=True)
    values = torch.randn(batch, n, channels, device=device, dtype=torch.bfloat16, requires_grad=True)

    def scaled_dot_product() -> torch.Tensor:
        query = F.pad(v[:, None, :, None], (0, channels - 1))
        return F.scaled_dot_product_attention(query, query, values[:, None], scale=1.0)[:, 0]

    ways = {
        "plain formula, HW x HW matrix": lambda: torch.softmax(v[:, :, None] * v[:, None, :], -1) @ values,
        "row blocks": lambda: RowBlockAttention.apply(v, values),
        "scaled dot product": scaled_dot_product,
    }
    return [
        {"name": name, "milliseconds": round(1e3 * fastest(lambda way=way: way().sum().backward(), 10), 3)}
        for name, way in ways.items()
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
    for name, net in runners.items():
        bf16 = not isinstance(net, FastMIFAD)
        many = fastest(lambda n=net, b=bf16: predict_logits(n, faces.images[:512], bf16=b, batch=64), repeats)
        one = fastest(lambda net=net: predict_logits(net, faces.images[:1]), 10 * repeats)
        parameters = sum(p.numel() for p in runners[name.removesuffix(", 8 bits")].parameters())
        inference.append(
            {
                "name": name,
                "parameters": parameters,
                "images_per_second": round(min(512, len(faces)) / many, 1),
                "one_face_milliseconds": round(1e3 * one, 2),
            }
        )
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
        log(f"  {row['name']:22}{row['images_per_second']:9.1f} images/s{row['one_face_milliseconds']:9.2f} ms a face")
    log("spatial attention, forwards and backwards, batch 64, 144 positions, 48 channels")
    for row in record["spatial_attention"]:
        log(f"  {row['name']:32}{row['milliseconds']:8.2f} ms")
    log(f"whole lite step over its columns alone: {record['lite_over_columns']:.2f}")
    log(f"naive loop over ours, same network: {record['naive_over_ours']:.2f}")
    log(f"peak memory {record['peak_memory_mib']:,} MiB")
    return record
