"""Training: profiles, the objective, and one loop that resumes bit for bit on a CPU."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .augment import Augmentation, augment
from .checkpoint import ARCHITECTURES, build, load_network, read_tensors, save_network, write_tensors
from .data import FaceData
from .distributed import guard, join
from .evaluate import accuracy, predict_logits
from .losses import AngularDistanceLoss, CenterLoss, IslandLoss
from .model import PRESETS, MIFADConfig, check_numbers
from .records import provenance, read_record, sweep, write_record

LOSSES = ("angular", "softmax", "center", "island")


@dataclass(frozen=True)
class TrainConfig:
    """One run, whole.

    arch, network: a name and a configuration as in `checkpoint.build`.
    loss: "angular", "softmax", "center" or "island"; margin (radians) is for the first, aux_weight (lambda) for the
        last two.  ramp: part of the run over which the margin rises from 0.
    optimizer: "adamw", "adam" or "sgd" (Nesterov).  schedule: "one-cycle", "cosine" or "constant".
    warmup: part of a one-cycle run that rises.  ema: horizon of the weight average as a part of the run, 0 for none.
    smoothing: part of each target that is spread over all classes.  mixup: alpha of mixup (Zhang et al., ICLR 2018), 0
        for none; each image is blended with another one, the share drawn from Beta(alpha, alpha), and so is its loss.
    clip: largest gradient norm.  bf16, channels_last, compile: how the steps are computed (channels_last on a CPU only
        together with bf16).
    """

    arch: str = "mifad"
    network: dict = field(default_factory=lambda: PRESETS["lite"].to_dict())
    loss: str = "angular"
    margin: float = 0.1
    ramp: float = 0.3
    aux_weight: float = 0.003
    epochs: int = 30
    batch: int = 128
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.05
    schedule: str = "one-cycle"
    warmup: float = 0.2
    ema: float = 0.03
    smoothing: float = 0.0
    mixup: float = 0.0
    clip: float = 5.0
    bf16: bool = True
    channels_last: bool = True
    compile: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self):
        for name, allowed in (
            ("arch", tuple(ARCHITECTURES)),
            ("loss", LOSSES),
            ("optimizer", ("adamw", "adam", "sgd")),
            ("schedule", ("one-cycle", "cosine", "constant")),
            *((name, (True, False)) for name in ("bf16", "channels_last", "compile")),
        ):
            value = getattr(self, name)
            if value not in allowed or isinstance(value, (int, float)) and not isinstance(value, bool):
                raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(map(str, allowed))}")
        check_numbers(self, epochs=(1, 10**6), batch=(2, 10**9), seed=(-(10**12), 10**12))
        check_numbers(self, lr=(0.0, 1e38), weight_decay=(0.0, 1e6), clip=(1e-9, math.inf), margin=(-100.0, 100.0))
        check_numbers(self, ramp=(0.0, 1.0), warmup=(0.0, 1.0), ema=(0.0, 100.0), aux_weight=(0.0, 1e6))
        check_numbers(self, smoothing=(0.0, 0.99), mixup=(0.0, 100.0))
        if not isinstance(self.network, dict):
            raise ValueError(f"network is {self.network!r}, and must be a dict, as MIFADConfig(...).to_dict() makes it")
        if self.loss == "angular" and self.network.get("head") != "cosine":
            raise ValueError("the angular loss needs cosines: set the network's head to 'cosine'")
        if self.mixup and self.loss in ("center", "island"):
            raise ValueError(f"mixup blends two labels, and the {self.loss} loss knows but one center: set it to 0")
        if isinstance(self.augmentation, dict):
            if unknown := self.augmentation.keys() - {f.name for f in fields(Augmentation)}:
                raise ValueError(f"augmentation has no setting {sorted(map(str, unknown))[0]!r}")
            object.__setattr__(self, "augmentation", Augmentation(**self.augmentation))
        if not isinstance(self.augmentation, Augmentation):
            raise ValueError(f"augmentation is {self.augmentation!r}, and must be an Augmentation")

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))  # tuples as JSON has them, so that a resumed run compares equal


PROFILES = {
    "smoke": TrainConfig(network=PRESETS["tiny"].to_dict(), epochs=8, batch=64, lr=8e-3, bf16=False),
    "cpu": TrainConfig(),
    "gpu": TrainConfig(network=PRESETS["base"].to_dict(), epochs=60, batch=256, compile=True),
    # A wider network for longer: more regularisation, on windows of 40 pixels.
    "long": TrainConfig(
        network=PRESETS["wide"].to_dict(),
        epochs=60,
        smoothing=0.1,
        mixup=0.2,
        augmentation=Augmentation(rotate=12.0, scale=0.15, shift=0.02, contrast=0.3, erase=0.3, crop=40),
    ),
    # One arm of the paper's Tables 3 to 6: small and short enough to be repeated with many arms and seeds.
    "ablation": TrainConfig(
        network=PRESETS["slim"].to_dict(), epochs=8, lr=5e-3, augmentation=Augmentation(shift=0.02, crop=40)
    ),
    # As the paper states it. It names no augmentation, no schedule and no weight decay, so there is none.
    "paper": TrainConfig(
        network=PRESETS["base"].to_dict(),
        epochs=300,
        batch=16,
        optimizer="adam",
        lr=1e-3,
        weight_decay=0.0,
        schedule="constant",
        ema=0.0,
        ramp=0.0,
        augmentation=Augmentation.none(),
    ),
}


class TrainingStopped(RuntimeError):
    """A loss or gradient that is not finite, or a lost process. The message says where, and what to do."""


class Objective(nn.Module):
    """A loss of Table 3 over a network's embedding and its head, in float32."""

    def __init__(self, config: TrainConfig, embedding: int, classes: int):
        super().__init__()
        self.angular = self.aux = None
        self.aux_weight = config.aux_weight
        self.smoothing = config.smoothing
        if config.loss == "angular":
            self.angular = AngularDistanceLoss(config.network.get("scale", MIFADConfig.scale), config.margin)
        elif config.loss in ("center", "island"):
            self.aux = (CenterLoss if config.loss == "center" else IslandLoss)(classes, embedding)

    def forward(
        self, net: nn.Module, embedding: Tensor, labels: Tensor, ramp: float, mix: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embedding (B, E), labels (B,) -> loss, and what to take the arg max of (B, classes).

        mix: the share of the first label (B,) and the other labels (B,) where images were blended.
        """
        scores = net.head(embedding) if self.angular is not None else net.classify(embedding).float()

        def loss(targets: Tensor, reduction: str) -> Tensor:
            if self.angular is not None:
                return self.angular(scores, targets, ramp, self.smoothing, reduction)
            return F.cross_entropy(scores, targets, label_smoothing=self.smoothing, reduction=reduction)

        if mix is None:
            total = loss(labels, "mean")
        else:
            share, others = mix
            total = (share * loss(labels, "none") + (1 - share) * loss(others, "none")).mean()
        if self.aux is not None:
            total = total + self.aux_weight * self.aux(embedding, labels)
        return total, scores


class Step(nn.Module):
    """All of a step that has weights, as one module: what several processes share."""

    def __init__(self, net: nn.Module, objective: Objective, features: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.objective, self.features = net, objective, features

    def forward(self, x: Tensor, labels: Tensor, ramp: float, mix=None) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W) in [0, 1], and what `Objective` takes -> what it gives."""
        return self.objective(self.net, self.features(x), labels, ramp, mix)


def lr_factor(schedule: str, t: float, warmup: float = 0.2) -> float:
    """Part of the peak learning rate at t in [0, 1] of the run."""
    if schedule == "constant":
        return 1.0
    if schedule == "one-cycle" and t < warmup:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * t / warmup)) / 2
    start = warmup if schedule == "one-cycle" else 0.0
    return max(1e-3, (1 + math.cos(math.pi * (t - start) / (1 - start))) / 2)


def make_optimizer(config: TrainConfig, net: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """Convolution and linear weights decay. Biases, norms, alpha, beta, centers and cosine directions do not."""
    decay, keep = [], []
    for name, p in net.named_parameters():
        cosine_head = name == "head.weight" and config.network.get("head") == "cosine"
        (decay if p.ndim > 1 and not cosine_head else keep).append(p)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": keep + list(objective.parameters()), "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=True)  # one pass over the weights: 2 ms in place of 15 for the preset wide


@torch.no_grad()
def ema_update(average: dict[str, Tensor], current: dict[str, Tensor], decay: float) -> None:
    floats = [name for name, a in average.items() if a.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in floats], [current[n] for n in floats], 1 - decay)
    for name in average.keys() - set(floats):
        average[name].copy_(current[name])


@guard(TrainingStopped)
def fit(
    data: FaceData,
    config: TrainConfig,
    folder: Path | str | None = None,
    *,
    resume: bool = False,
    device: str | None = None,
    log: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> tuple[nn.Module, dict]:
    """Train on `data.train`, watch `data.public`, never look at `data.private`.

    Returns the averaged network of the epoch that was best on the public test, and the run's record.

    folder: where last.safetensors, best.safetensors and record.json go after every epoch. None writes nothing.
    resume: go on from folder/last.safetensors. On a CPU the result is bit for bit that of an uncut run.
    log: called with one line per epoch.  progress: a tqdm bar (default: where standard error is a terminal).

    Started by torchrun, the processes share each step and end with the same network (distributed.py); the first one
    writes, logs and shows the bar.

    Raises TrainingStopped at a loss or gradient norm that is not finite, or where another process is gone; ValueError
    where the folder holds another run, or the processes cannot share the batch.
    """
    team = join(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    device = team.device
    kind = torch.device(device).type
    folder = None if folder is None else Path(folder)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a run needs a folder: name another one")
    if config.compile and team.size > 1:
        raise ValueError(f"steps shared by {team.size} processes are not compiled here: use --no-compile")
    batch = min(config.batch, len(data.train))
    share = team.share(batch)
    origin = provenance(data.name, data.sha256, device)  # of the code as it started
    if team.size > 1:
        origin["processes"] = team.size
    torch.manual_seed(config.seed)
    # In float32, torch 2.13's CPU convolutions crash in channels_last on networks only 4 or 8 channels wide.
    channels_last = config.channels_last and (config.bf16 or kind != "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = build(config.arch, config.network).to(device, memory_format=layout)
    average = build(config.arch, config.network).to(device, memory_format=layout)  # the EMA, and what is evaluated
    average.load_state_dict(net.state_dict())
    check_data(data, net.config, config.augmentation.crop)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    with torch.no_grad():
        width = net.eval().features(torch.zeros(1, 1, 48, 48, device=device)).shape[1]
    objective = Objective(config, width, net.config.classes).to(device)
    optimizer = make_optimizer(config, net, objective)
    # Shapes never change in training. Taken for symbols they stop inductor, which must order strides.
    features = torch.compile(net.features, dynamic=False) if config.compile else net.features
    shared_step = team.prepare(net, Step(net, objective, features))
    draws = {} if team.size == 1 or config.mixup else {"share": share}  # mixup's partner may be in another share

    steps = len(images) // batch
    total = steps * config.epochs
    history: list[dict] = []
    best = -1.0
    best_state = None
    if resume and folder is not None and (folder / "last.safetensors").exists():
        history, best = load_state(folder / "last.safetensors", config, data, net, average, objective, optimizer)
        best_state = load_best(folder / "best.safetensors", config, average)
        record = make_record(config, origin, history, best)
        if team.rank == 0:
            for name in ("best.safetensors", "last.safetensors", "record.json"):
                sweep(folder / name)
            if not is_record_of(folder / "record.json", history):  # the run was killed before it wrote this
                write_record(folder / "record.json", record)
    elif folder is not None and (folder / "last.safetensors").exists():
        raise ValueError(f"{folder} already holds a run: go on with --resume, or name another folder")

    for epoch in range(len(history), config.epochs):
        began = time.perf_counter()
        torch.manual_seed(config.seed * 100_003 + epoch)  # dropout
        generator = torch.Generator(device).manual_seed(config.seed * 100_003 + epoch)  # order and augmentation
        order = torch.randperm(len(images), generator=generator, device=device)
        net.train()
        sums = torch.zeros(2, device=device)  # loss, hits
        title = f"epoch {epoch + 1}/{config.epochs}"
        hidden = team.rank > 0 or (None if progress is None else not progress)
        bar = tqdm(range(steps), title, leave=False, unit="step", disable=hidden)
        for step in bar:
            t = (epoch * steps + step) / total
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(config.schedule, t, config.warmup)
            index = order[step * batch : (step + 1) * batch]
            x = augment(images[index], config.augmentation, generator, **draws).contiguous(memory_format=layout)
            y, mix = labels[index], None
            if config.mixup:
                parts = torch.distributions.Beta(config.mixup, config.mixup).sample((batch,)).to(device)
                partner = torch.randperm(batch, generator=generator, device=device)
                x = torch.lerp(x[partner], x, parts[:, None, None, None]).contiguous(memory_format=layout)[share]
                mix = parts[share], y[partner][share]
            y = y[share]
            with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                loss, scores = shared_step(x, y, min(1.0, t / config.ramp) if config.ramp else 1.0, mix)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            result = team.mean(torch.stack([loss.detach(), (scores.argmax(1) == y).float().mean()]))
            if not torch.isfinite(norm + result[0]):
                raise TrainingStopped(
                    f"epoch {epoch + 1}, step {step + 1}: loss {result[0].item():g}, gradient norm {norm.item():g}; "
                    "lower lr or the margin; the last whole epoch is kept"
                )
            optimizer.step()
            n = epoch * steps + step + 1
            decay = min(1 - 1 / max(1.0, config.ema * total), (1 + n) / (10 + n)) if config.ema else 0.0
            ema_update(average.state_dict(), net.state_dict(), decay)
            sums += result
        public = team.of_first(
            lambda: accuracy(predict_logits(average, data.public.images, bf16=config.bf16), data.public.labels)
        )
        seconds = time.perf_counter() - began
        mean_loss, train_accuracy = (sums / steps).tolist()
        history.append(
            {
                "epoch": epoch + 1,
                "loss": round(mean_loss, 6),
                "train_accuracy": round(train_accuracy, 6),
                "public_accuracy": round(public, 6),
                "lr": optimizer.param_groups[0]["lr"],
                "seconds": round(seconds, 2),
            }
        )
        improved = public > best
        if improved:
            best = public
            best_state = {k: v.clone() for k, v in average.state_dict().items()}
        record = make_record(config, origin, history, best)
        if folder is not None and team.rank == 0:
            if improved:
                save_network(folder / "best.safetensors", average, epoch=epoch + 1, public_accuracy=best)
            save_state(folder / "last.safetensors", config, data, history, best, net, average, objective, optimizer)
            write_record(folder / "record.json", record)
        if log and team.rank == 0:
            log(
                f"epoch {epoch + 1:>3}/{config.epochs}  loss {mean_loss:.4f}  train {100 * train_accuracy:.2f} %  "
                f"public test {100 * public:.2f} %  {steps * batch / seconds:.0f} images/s"
            )
    average.load_state_dict(best_state)
    return average.eval(), make_record(config, origin, history, best)


def check_data(data: FaceData, network, crop: int) -> None:
    """Raise ValueError where these faces cannot train a network of this configuration."""
    if len(data.train) < 2 or not len(data.public):
        raise ValueError(f"{len(data.train)} faces to train on and {len(data.public)} in the public test are too few")
    if (most := int(max(data.train.labels.max(), data.public.labels.max()))) >= network.classes:
        raise ValueError(f"classes = {network.classes} is too few: the data has a label {most}")
    if 0 < crop < (least := 2 ** len(set(getattr(network, "pool_after", ())))):
        raise ValueError(f"crop = {crop} is too small: the pools leave nothing of less than {least} pixels")


def make_record(config: TrainConfig, origin: dict, history: list[dict], best: float) -> dict:
    return {
        "kind": "train",
        **origin,
        "config": config.to_dict(),
        "seed": config.seed,
        "best_epoch": max(history, key=lambda h: h["public_accuracy"])["epoch"],
        "best_public_accuracy": best,
        "seconds": round(sum(h["seconds"] for h in history), 2),
        "epochs": history,
    }


def save_state(path, config, data, history, best, net, average, objective, optimizer) -> None:
    """Everything that the next epoch needs, in one file, so that it is either all there or not."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"objective.{k}": v for k, v in objective.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    meta = {"config": config.to_dict(), "data": data.sha256, "history": history, "best": best}
    write_tensors(path, tensors, meta)


HISTORY = ("epoch", "loss", "train_accuracy", "public_accuracy", "lr", "seconds")


def is_record_of(path: Path, history: list[dict]) -> bool:
    """Whether a record is there and tells of these epochs."""
    try:
        return read_record(path)["epochs"] == history
    except (ValueError, LookupError, TypeError):
        return False


def load_best(path: Path, config: TrainConfig, average: nn.Module) -> dict[str, Tensor]:
    """The weights of a run's best network. Raises ValueError where the file holds another run's."""
    net, meta = load_network(path)
    if meta["arch"] != config.arch or net.config != average.config:
        raise ValueError(f"{path}: this is not the best network of this run; name another folder")
    return net.state_dict()


def misfit(tensors: dict[str, Tensor], wanted: dict[str, torch.Size], optional: str) -> str | None:
    """The first tensor that is missing (unless its name starts as `optional`), foreign, misshapen or not finite."""
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors and name.startswith(optional):
            continue
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name]:
            return name
        if tensors[name].is_floating_point() and not tensors[name].isfinite().all():
            return name
    return None


def load_state(path, config, data, net, average, objective, optimizer) -> tuple[list[dict], float]:
    """Undo `save_state`: -> history, best public accuracy. Raises ValueError where the file is of another run."""
    tensors, meta = read_tensors(path)
    if not isinstance(meta, dict) or not {"data", "config", "history", "best"} <= meta.keys():
        raise ValueError(f"{path}: this is not the state of a training run; name another folder")
    if meta["data"] != data.sha256:
        raise ValueError(f"{path}: this run was trained on other data; resume it with the same, or start a new folder")
    if meta["config"] != config.to_dict():
        there = meta["config"] if isinstance(meta["config"], dict) else {}
        changed = [k for k, v in config.to_dict().items() if there.get(k) != v] or ["configuration"]
        raise ValueError(f"{path}: this run has another {', '.join(changed)}; resume it unchanged or name a new folder")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    history, best = meta["history"], meta["best"]
    try:
        numbers = [[epoch[key] for key in HISTORY] for epoch in history]
        sound = [row[0] for row in numbers] == [*range(1, len(history) + 1)] and 0 < len(history) <= config.epochs
        sound = sound and all(math.isfinite(x) for row in numbers for x in row)
        sound = sound and abs(best - max(epoch["public_accuracy"] for epoch in history)) < 1e-5
    except (LookupError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: its history of epochs is damaged; start again in another folder")
    keys = ("momentum_buffer",) if config.optimizer == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = {
        f"optimizer.{i}.{key}": torch.Size() if key == "step" else p.shape
        for i, p in enumerate(parameters)
        for key in keys
    }
    for prefix, module in (("net.", net), ("average.", average), ("objective.", objective)):
        wanted |= {prefix + name: tensor.shape for name, tensor in module.state_dict().items()}
    if name := misfit(tensors, wanted, "optimizer."):
        raise ValueError(f"{path}: the tensor {name} does not fit this run; start again in another folder")

    net.load_state_dict(part("net."))
    average.load_state_dict(part("average."))
    objective.load_state_dict(part("objective."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    if bad := [i for i, own in state.items() if len(own) != len(keys)]:
        raise ValueError(f"{path}: the optimizer's state {bad[0]} is not whole; start again in another folder")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for p, own in optimizer.state.items():  # the file is contiguous; a fused update pairs numbers in memory order
        for key, value in own.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                own[key] = torch.empty_like(p).copy_(value)
    return history, best


def profile(name: str, **changes) -> TrainConfig:
    """A named profile with some fields changed. Raises ValueError for an unknown name."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is unknown: use one of {', '.join(PROFILES)}")
    return replace(PROFILES[name], **changes)
