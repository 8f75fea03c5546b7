"""Training: profiles, the objective, and one loop that resumes bit for bit on a CPU."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .augment import Augmentation, augment
from .checkpoint import (
    ARCHITECTURES,
    build,
    difference,
    load_network,
    read_tensors,
    save_weights,
    weights_of,
    write_tensors,
)
from .data import FaceData
from .distributed import guard, join
from .evaluate import accuracy, predict_logits
from .graph import Replay
from .losses import AngularDistanceLoss, CenterLoss, CosineClassifier, IslandLoss
from .model import PRESETS, MIFADConfig, check_numbers
from .records import check_place, provenance, read_record, sweep, write_record

LOSSES = ("angular", "softmax", "center", "island")
SCHEDULES = ("one-cycle", "cosine", "constant")
# Seconds between two writings of a run's folder, by kind of device: a GPU's epoch can take less time than one of them.
PAUSE = {"cpu": 0.0, "cuda": 5.0}


@dataclass(frozen=True)
class TrainConfig:
    """One run, whole.

    arch, network: a name and a configuration as in `checkpoint.build`.
    loss: "angular" (for arch "mifad" with a cosine head alone), "softmax", "center" or "island"; margin (radians) is
        for the first, aux_weight (lambda) for the last two.  ramp: part of the run over which the margin rises from 0.
    optimizer: "adamw", "adam" or "sgd" (Nesterov).  schedule: "one-cycle", "cosine" or "constant".
    warmup: part of a one-cycle run that rises.  ema: horizon of the weight average as a part of the run, 0 for none.
    smoothing: part of each target that is spread over all classes.  mixup: alpha of mixup (Zhang et al., ICLR 2018), 0
        for none; each image is blended with another one, the share drawn from Beta(alpha, alpha), and so is its loss.
    teach: part of the loss that asks for the teachers' probabilities in place of the label (Hinton et al., 2015), with
        the teachers that `fit` is given.
    sam: radius of sharpness-aware minimisation (Foret et al., ICLR 2021), 0 for none; the step's gradient is taken this
        far up the slope, which costs a second pass.
    clip: largest gradient norm.  bf16, channels_last, compile, graph: how the steps are computed (channels_last on a
        CPU only together with bf16; graph, a step as one CUDA graph, on a GPU only).
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
    teach: float = 0.0
    sam: float = 0.0
    clip: float = 5.0
    bf16: bool = True
    channels_last: bool = True
    compile: bool = False
    graph: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self):
        for name, allowed in (
            ("arch", tuple(ARCHITECTURES)),
            ("loss", LOSSES),
            ("optimizer", ("adamw", "adam", "sgd")),
            ("schedule", SCHEDULES),
            *((name, (True, False)) for name in ("bf16", "channels_last", "compile", "graph")),
        ):
            value = getattr(self, name)
            if value not in allowed or isinstance(value, (int, float)) and not isinstance(value, bool):
                raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(map(str, allowed))}")
        check_numbers(self, epochs=(1, 10**6), batch=(2, 10**9), seed=(-(10**12), 10**12))
        check_numbers(self, lr=(0.0, 1e38), weight_decay=(0.0, 1e6), clip=(1e-9, math.inf), margin=(-100.0, 100.0))
        check_numbers(self, ramp=(0.0, 1.0), warmup=(0.0, 1.0), ema=(0.0, 100.0), aux_weight=(0.0, 1e6))
        check_numbers(self, smoothing=(0.0, 0.99), mixup=(0.0, 100.0), teach=(0.0, 1.0), sam=(0.0, 100.0))
        if not isinstance(self.network, dict):
            raise ValueError(f"network is {self.network!r}, and must be a dict, as MIFADConfig(...).to_dict() makes it")
        if self.loss == "angular" and self.arch != "mifad":
            raise ValueError(f"the angular loss needs cosines, which arch {self.arch!r} lacks: set loss to 'softmax'")
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
    "gpu": TrainConfig(network=PRESETS["base"].to_dict(), epochs=60, batch=256, graph=True),
    # A wider network for longer: more regularisation, on windows of 40 pixels.
    "long": TrainConfig(
        network=PRESETS["wide"].to_dict(),
        epochs=60,
        smoothing=0.1,
        mixup=0.2,
        augmentation=Augmentation(rotate=12.0, scale=0.15, shift=0.02, contrast=0.3, erase=0.3, crop=40),
    ),
    # The best network for one GPU and a few minutes: chapter 9 says what was tried.
    "flagship": TrainConfig(
        network={**PRESETS["large"].to_dict(), "head": "linear"},
        loss="softmax",
        epochs=90,
        batch=256,
        lr=4e-3,
        smoothing=0.1,
        mixup=0.2,
        graph=True,
        augmentation=Augmentation(rotate=10.0, scale=0.12, shift=0.02, contrast=0.3, erase=0.2, crop=40),
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
        self.smoothing, self.teach = config.smoothing, config.teach
        if config.loss == "angular":
            self.angular = AngularDistanceLoss(config.network.get("scale", MIFADConfig.scale), config.margin)
        elif config.loss in ("center", "island"):
            self.aux = (CenterLoss if config.loss == "center" else IslandLoss)(classes, embedding)

    def forward(
        self,
        net: nn.Module,
        embedding: Tensor,
        labels: Tensor,
        ramp: float | Tensor,
        mix: tuple[Tensor, Tensor] | None = None,
        taught: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embedding (B, E), labels (B,) -> loss, and what to take the arg max of (B, classes).

        mix: the share of the first label (B,) and the other labels (B,) where images were blended.
        taught: the teachers' mean probabilities (B, classes), for the part `teach` of the loss.
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
        if taught is not None:
            logits = scores if self.angular is None else self.angular.scale * scores
            follow = -(taught * logits.log_softmax(1)).sum(1).mean()
            total = (1 - self.teach) * total + self.teach * follow
        if self.aux is not None:
            total = total + self.aux_weight * self.aux(embedding, labels)
        return total, scores


class Step(nn.Module):
    """All of a step that has weights, as one module: what several processes share."""

    def __init__(self, net: nn.Module, objective: Objective, features: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.objective, self.features = net, objective, features

    def forward(self, x: Tensor, labels: Tensor, ramp, mix=None, taught=None) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W) in [0, 1], and what `Objective` takes -> what it gives."""
        return self.objective(self.net, self.features(x), labels, ramp, mix, taught)


def lr_factor(schedule: str, t: float, warmup: float = 0.2) -> float:
    """Part of the peak learning rate at t in [0, 1] of the run."""
    if schedule == "constant":
        return 1.0
    if schedule == "one-cycle" and t < warmup:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * t / warmup)) / 2
    start = warmup if schedule == "one-cycle" else 0.0
    return max(1e-3, (1 + math.cos(math.pi * (t - start) / (1 - start))) / 2)


def make_optimizer(
    config: TrainConfig, net: nn.Module, objective: nn.Module, graph: bool = False
) -> torch.optim.Optimizer:
    """Convolution and linear weights decay. Biases, norms, alpha, beta, centers and cosine directions do not.

    graph: its rate is a tensor, which a CUDA graph can read anew at each replay.
    """
    decay, keep = [], []
    for name, p in net.named_parameters():
        cosine_head = name == "head.weight" and isinstance(net.head, CosineClassifier)
        (decay if p.ndim > 1 and not cosine_head else keep).append(p)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": keep + list(objective.parameters()), "weight_decay": 0.0},
    ]
    lr = torch.tensor(config.lr, device=next(net.parameters()).device) if graph else config.lr
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=graph or None)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Fused is one pass over the weights: 2 ms in place of 15 for the preset wide.
    return kind(groups, lr=lr, fused=True, capturable=graph)


@torch.no_grad()
def ema_update(average: dict[str, Tensor], current: dict[str, Tensor], decay: float | Tensor) -> None:
    floats = [name for name, a in average.items() if a.is_floating_point()]
    old, new = [average[n] for n in floats], [current[n] for n in floats]
    if isinstance(decay, Tensor):  # which lerp does not take for many tensors at once
        change = torch._foreach_sub(new, old)
        torch._foreach_mul_(change, 1 - decay)
        torch._foreach_add_(old, change)
    else:
        torch._foreach_lerp_(old, new, 1 - decay)
    for name in average.keys() - set(floats):
        average[name].copy_(current[name])


@contextmanager
def uphill(net: nn.Module, radius: float) -> Iterator[None]:
    """For the time of the block, the weights w stand at w + radius g / |g|, g their gradients, |g| over all of them.

    Afterwards weights and running statistics are what they were, bit for bit. The gradients are the block's.
    Source: Foret et al., ICLR 2021, equation 2 for p = 2.
    """
    state = list(net.state_dict().values())
    before = [t.clone() for t in state]
    moved = [p for p in net.parameters() if p.grad is not None]
    with torch.no_grad():
        slope = [p.grad for p in moved]
        length = torch.stack(torch._foreach_norm(slope)).norm().clamp_min(1e-12)
        torch._foreach_add_(moved, torch._foreach_mul(slope, radius / length))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(state, before)


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
    teachers: Sequence[nn.Module] = (),
    start: nn.Module | None = None,
) -> tuple[nn.Module, dict]:
    """Train on `data.train`, watch `data.public`, never look at `data.private`.

    Returns the averaged network of the epoch that was best on the public test, and the run's record.

    folder: where last.safetensors, best.safetensors and record.json go after every epoch, on a GPU every few seconds.
        None writes nothing.
    resume: go on from folder/last.safetensors. On a CPU the result is bit for bit that of an uncut run.
    log: called with one line per epoch.  progress: a tqdm bar (default: where standard error is a terminal).
    teachers: trained networks, for a configuration with `teach` above 0.
    start: a network of this configuration, whose weights the run starts from in place of random ones.

    Started by torchrun, the processes share each step and end with the same network (distributed.py); the first one
    writes, logs and shows the bar.

    Raises TrainingStopped at a loss or gradient norm that is not finite, or where another process is gone; ValueError
    where the folder holds another run, the processes cannot share the batch, `teach` and teachers do not meet, or
    `start` is another network.
    """
    team = join(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    device = team.device
    kind = torch.device(device).type
    folder = None if folder is None else Path(folder)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a run needs a folder: name another one")
    for name in ("best.safetensors", "last.safetensors", "record.json") if folder is not None else ():
        check_place(folder / name)
    for name in ("compile", "graph"):
        if getattr(config, name) and team.size > 1:
            done = {"compile": "compiled", "graph": "recorded as a graph"}[name]
            raise ValueError(f"steps shared by {team.size} processes are not {done} here: use --no-{name}")
    if bool(config.teach) != bool(teachers):
        count = len(teachers)
        raise ValueError(f"teach = {config.teach:g} with {count} teachers: set both (--teach, --teacher), or none")
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
    if start is not None:
        if found := difference(start, net):
            raise ValueError(f"the network to start from {found}: ask for the same, or start afresh")
        net.load_state_dict(start.state_dict())
    average.load_state_dict(net.state_dict())
    teachers = [teacher.to(device, memory_format=layout).eval() for teacher in teachers]
    for teacher in teachers:
        if teacher.config.classes != net.config.classes:
            count = teacher.config.classes
            raise ValueError(f"a teacher tells {count} classes apart, and this network {net.config.classes}")
    taught_by = [weights_of(teacher) for teacher in teachers]
    if teachers:
        origin["teachers"] = taught_by
    if start is not None:
        origin["start"] = weights_of(start)
    check_data(data, net.config, config.augmentation.crop)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    with torch.no_grad():
        width = net.eval().features(torch.zeros(1, 1, 48, 48, device=device)).shape[1]
    objective = Objective(config, width, net.config.classes).to(device)
    graph = config.graph and Replay.works_on(device)
    optimizer = make_optimizer(config, net, objective, graph)
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
        state = folder / "last.safetensors"
        history, best = load_state(state, config, data, origin, net, average, objective, optimizer)
        best_state = load_best(folder / "best.safetensors", config, average)
        record = make_record(config, origin, history, best)
        if team.rank == 0:
            for name in ("best.safetensors", "last.safetensors", "record.json"):
                sweep(folder / name)
            if not is_record_of(folder / "record.json", history):  # the run was killed before it wrote this
                write_record(folder / "record.json", record)
    elif folder is not None and (folder / "last.safetensors").exists():
        raise ValueError(f"{folder} already holds a run: go on with --resume, or name another folder")

    def update(x: Tensor, y: Tensor, mix, ramp, keep, check: Callable[[Tensor], None] | None = None) -> Tensor:
        """One step on x (B, 1, H, W) and y (B,) -> (3,): loss, share of hits, gradient norm.

        mix: None, or the shares (B,) and partners (B,) of mixup.  keep: what the average keeps of itself.
        check: called with the result before the weights change.
        """
        if mix is not None:
            parts, partner = mix
            x = torch.lerp(x[partner], x, parts[:, None, None, None]).contiguous(memory_format=layout)[share]
            mix = parts[share], y[partner][share]
        y = y[share]
        with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
            taught = None
            if teachers:
                with torch.no_grad():
                    taught = torch.stack([teacher(x).float().softmax(1) for teacher in teachers]).mean(0)

        def descend() -> tuple[Tensor, Tensor]:
            with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                loss, scores = shared_step(x, y, ramp, mix, taught)
            optimizer.zero_grad()
            loss.backward()
            return loss, scores

        loss, scores = descend()
        if config.sam:
            with uphill(net, config.sam):
                descend()
        norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        result = team.mean(torch.stack([loss.detach(), (scores.argmax(1) == y).float().mean()]))
        result = torch.cat([result, norm.detach()[None]])
        if check is not None:
            check(result)
        optimizer.step()
        ema_update(average.state_dict(), net.state_dict(), keep)
        return result

    pause = PAUSE.get(kind, 0.0)
    kept = "what was last written is kept" if pause else "the last whole epoch is kept"

    def stopped(number: int, result: Tensor) -> TrainingStopped:
        return TrainingStopped(
            f"epoch {number // steps + 1}, step {number % steps + 1}: loss {result[0].item():g}, gradient norm "
            f"{result[2].item():g}; lower lr or the margin; {kept}"
        )

    def planned(number: int) -> tuple[float, float, float]:
        """Learning rate, ramp and what the average keeps, at a step of the run."""
        t, n = number / total, number + 1
        keep = min(1 - 1 / max(1.0, config.ema * total), (1 + n) / (10 + n)) if config.ema else 0.0
        rate = config.lr * lr_factor(config.schedule, t, config.warmup)
        return rate, min(1.0, t / config.ramp) if config.ramp else 1.0, keep

    beta = torch.distributions.Beta(config.mixup, config.mixup) if config.mixup else None
    replay, unsaved, written = None, False, time.perf_counter()
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes never change: the fastest convolutions are looked for once
    for epoch in range(len(history), config.epochs):
        began = time.perf_counter()
        net.train()
        if graph and replay is None:
            crop = config.augmentation.crop
            shape = (steps, batch, *((crop, crop) if crop else images.shape[2:]))
            replay = Replay(update, [net, average, objective], optimizer, shape, beta is not None, layout, device)
        torch.manual_seed(config.seed * 100_003 + epoch)  # dropout
        generator = torch.Generator(device).manual_seed(config.seed * 100_003 + epoch)  # order and augmentation
        order = torch.randperm(len(images), generator=generator, device=device)
        first = epoch * steps
        if replay is not None:
            order = order[: steps * batch]
            x = torch.cat([augment(images[part], config.augmentation, generator) for part in order.split(4096)])
            mix = None
            if beta is not None:
                draws_of_partners = torch.rand(steps, batch, generator=generator, device=device)
                mix = beta.sample((steps, batch)).to(device), draws_of_partners.argsort(1)
            plan = torch.tensor([planned(first + step) for step in range(steps)], device=device)
            results = replay.epoch(x, labels[order], mix, plan)
            rate = planned(first + steps - 1)[0]
            if len(bad := (~results.isfinite().all(1)).nonzero()):
                raise stopped(first + bad[0].item(), results[bad[0].item()])
            sums = results.sum(0)
        else:
            sums = torch.zeros(3, device=device)
            title = f"epoch {epoch + 1}/{config.epochs}"
            hidden = team.rank > 0 or (None if progress is None else not progress)
            for step in tqdm(range(steps), title, leave=False, unit="step", disable=hidden):
                number = first + step
                rate, ramp, keep = planned(number)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                index = order[step * batch : (step + 1) * batch]
                x = augment(images[index], config.augmentation, generator, **draws).contiguous(memory_format=layout)
                mix = None
                if beta is not None:
                    mix = (
                        beta.sample((batch,)).to(device),
                        torch.randperm(batch, generator=generator, device=device),
                    )

                def check(result: Tensor, number: int = number) -> None:
                    if not torch.isfinite(result[0] + result[2]):
                        raise stopped(number, result)

                sums += update(x, labels[index], mix, ramp, keep, check)
        if not all(t.isfinite().all() for module in (net, average) for t in module.state_dict().values()):
            raise TrainingStopped(
                f"epoch {epoch + 1}: the last step left weights that are not finite, though its loss was; lower lr or "
                f"weight_decay; {kept}"
            )
        public = team.of_first(
            lambda: accuracy(
                predict_logits(average, data.public.images, bf16=config.bf16, batch=4096 if kind == "cuda" else 256),
                data.public.labels,
            )
        )
        seconds = time.perf_counter() - began
        mean_loss, train_accuracy, _ = (sums / steps).tolist()
        history.append(
            {
                "epoch": epoch + 1,
                "loss": round(mean_loss, 6),
                "train_accuracy": round(train_accuracy, 6),
                "public_accuracy": round(public, 6),
                "lr": rate,
                "seconds": round(seconds, 3),
            }
        )
        improved = public > best
        if improved:
            best = public
            best_state = {k: v.clone() for k, v in average.state_dict().items()}
            unsaved = True
        record = make_record(config, origin, history, best)
        due = epoch + 1 == config.epochs or time.perf_counter() - written >= pause
        if folder is not None and team.rank == 0 and due:
            if unsaved:
                about = {"epoch": record["best_epoch"], "public_accuracy": best}
                save_weights(folder / "best.safetensors", config.arch, average.config, best_state, **about)
            state = folder / "last.safetensors"
            save_state(state, config, data, history, best, origin, net, average, objective, optimizer)
            write_record(folder / "record.json", record)
            unsaved, written = False, time.perf_counter()
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
        "seconds": round(sum(h["seconds"] for h in history), 3),
        "epochs": history,
    }


def save_state(path, config, data, history, best, origin, net, average, objective, optimizer) -> None:
    """Everything that the next epoch needs, in one file, so that it is either all there or not."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"objective.{k}": v for k, v in objective.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    meta = {"config": config.to_dict(), "data": data.sha256, "history": history, "best": best}
    meta |= {"teachers": origin.get("teachers", []), "start": origin.get("start")}
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


def load_state(path, config, data, origin, net, average, objective, optimizer) -> tuple[list[dict], float]:
    """Undo `save_state`: -> history, best public accuracy. Raises ValueError where the file is of another run."""
    tensors, meta = read_tensors(path)
    if not isinstance(meta, dict) or not {"data", "config", "history", "best"} <= meta.keys():
        raise ValueError(f"{path}: this is not the state of a training run; name another folder")
    if meta["data"] != data.sha256:
        raise ValueError(f"{path}: this run was trained on other data; resume it with the same, or start a new folder")
    there = meta["config"] if isinstance(meta["config"], dict) else {}
    if there:  # a setting that came later was off then, and off is its default
        there = TrainConfig().to_dict() | there
    if there != config.to_dict():
        changed = [k for k, v in config.to_dict().items() if there.get(k) != v] or ["configuration"]
        raise ValueError(f"{path}: this run has another {', '.join(changed)}; resume it unchanged or name a new folder")
    if meta.get("teachers", []) != origin.get("teachers", []):
        raise ValueError(f"{path}: this run has other teachers; resume it with the same, or start a new folder")
    if meta.get("start") != origin.get("start"):
        raise ValueError(f"{path}: this run started from other weights; name the same to --start, or a new folder")

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
