"""Training on several processes that torchrun started: the same steps as one process takes, each cut into shares.

    torchrun --nproc-per-node 2 -m mifad_lite train ...

Every process draws the random numbers of the whole batch and computes on its own share of it. What a batch has in
common is summed over the processes: means and variances in batch norm, gradients (DistributedDataParallel), the loss.
"""

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

GONE = "the last whole epoch is kept: start the same command again with --resume"


def place() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine, as torchrun says; else (0, 1, 0)."""
    said = [os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    return tuple(map(int, said)) if all(said) else (0, 1, 0)


@dataclass(frozen=True)
class Team:
    """Where a process stands: its number, of how many, and its device. One process alone is a team of one."""

    device: str
    rank: int = 0
    size: int = 1

    def share(self, batch: int) -> slice:
        """This process's part of a batch. Raises ValueError unless all parts are equal and of two images or more."""
        if self.size > 1 and (batch % self.size or batch < 2 * self.size):
            raise ValueError(
                f"a batch of {batch} images does not go into {self.size} processes: the batch must be a multiple of "
                "their number, with at least two images for each"
            )
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def prepare(self, net: nn.Module, step: nn.Module) -> nn.Module:
        """Make `step`, a module around `net`, one step of the whole team; `net` keeps all names and weights."""
        if self.size == 1:
            return step
        cuda = torch.device(self.device).type == "cuda"
        if cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(net)
        for module in list(net.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, TeamDropout(self, child.p))
                elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) and not cuda:
                    setattr(module, name, TeamBatchNorm(self, child))
        # Averages the gradients over the processes.
        return DistributedDataParallel(step)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a tensor over the processes, without gradient."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def of_first(self, compute) -> float:
        """What the first process gets from `compute()`; the others wait for it."""
        if self.size == 1:
            return compute()
        x = torch.tensor([compute() if self.rank == 0 else 0.0], dtype=torch.float64, device=self.device)
        dist.broadcast(x, 0)
        return x.item()


def join(device: str) -> Team:
    """This process's team on devices of this kind; where there are several processes, they meet here.

    Raises ValueError where a machine has fewer GPUs than processes.
    """
    rank, size, local = place()
    if size == 1:
        return Team(device)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
        if here > torch.cuda.device_count():
            raise ValueError(
                f"{here} processes on a machine where torch sees {torch.cuda.device_count()} GPU: each needs its own, "
                "so lower --nproc-per-node, or set CUDA_VISIBLE_DEVICES= to train on the processor"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    if not dist.is_initialized():  # once in a process: a second meeting at the same address can miss the others
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=10))
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return Team(device, rank, size)


class TeamSum(torch.autograd.Function):
    """The sum of a tensor over the processes. Its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return TeamSum.apply(grad)


class TeamBatchNorm(nn.BatchNorm2d):
    """Batch norm with the mean and variance of the whole batch, of which each process holds an equal share.

    With m_r and v_r those of share r, the mean is mean(m_r) and the variance mean(v_r) + mean((m_r - mean)^2): within
    the shares plus between them, which does not cancel as E[x^2] - E[x]^2 does. Computes in float32, or in float64 for
    float64. (torch.nn.SyncBatchNorm is for GPUs only.)
    """

    def __init__(self, team: Team, norm: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.team = team
        self._parameters, self._buffers = norm._parameters, norm._buffers  # the very same tensors

    def forward(self, x: Tensor) -> Tensor:
        """(B / processes, C) or (B / processes, C, H, W) -> the same shape."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        team, n = self.team, self.team.size * x.numel() // x.shape[1]
        shape, axes = [1, -1] + [1] * (x.ndim - 2), [d for d in range(x.ndim) if d != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, axes, correction=0)  # (C,) of this share
        rows = F.pad(torch.stack([mean, variance])[None], (0, 0, 0, 0, team.rank, team.size - 1 - team.rank))
        means, variances = TeamSum.apply(rows).unbind(1)  # (processes, C): a row from each
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var), self.momentum)
            self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias.view(shape), wide - mean.view(shape), scale.view(shape)).to(x.dtype)


class TeamDropout(nn.Module):
    """Dropout that draws the mask of the whole batch and keeps this process's rows of it."""

    def __init__(self, team: Team, p: float):
        super().__init__()
        self.team, self.p = team, p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        batch = self.team.size * len(x)
        return x * F.dropout(x.new_ones(batch, *x.shape[1:]), self.p)[self.team.share(batch)]


def speaks() -> bool:
    """Whether this process is the first of its run that asks: what stopped all of them is said once."""
    if place()[1] == 1:
        return True
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"mifad_lite/said/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (KeyError, RuntimeError):
        return True  # no one is left to ask


@contextmanager
def guard(stopped: type[Exception], patience: float = 5.0):
    """Raise `stopped` where another process of the run is gone, or torchrun says so by SIGTERM. Also a decorator.

    A process that waits inside NCCL runs no Python and can raise nothing: after `patience` seconds a thread speaks and
    ends it. Does nothing for one process.
    """
    if place()[1] == 1:
        yield
        return
    told = f"told to stop (torchrun does so where another process of the run has ended); {GONE}"

    def stop(*_):
        raise stopped(told)

    def watch():
        while (number := os.read(reader, 1)) and number[0] != signal.SIGTERM:
            pass
        os.close(reader)
        if not number:
            return  # the run is over
        time.sleep(patience)
        if speaks():
            sys.stderr.write(f"mifad_lite: {told}\n")
            sys.stderr.flush()
        os._exit(1)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, stop)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # the number of every signal is written here at once
    threading.Thread(target=watch, daemon=True).start()
    after = signal.SIG_IGN  # on its way out, a process need not be told again
    try:
        yield
        after = signal.SIG_DFL
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise stopped(f"another process of the run has ended, so this one stops too; {GONE}") from None
    finally:
        signal.set_wakeup_fd(-1)
        os.close(writer)
        signal.signal(signal.SIGTERM, after)
