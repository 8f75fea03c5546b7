"""A training step as a CUDA graph: recorded once, then replayed with a single launch for its hundreds of kernels.

A step of a small network keeps a GPU busy for less time than Python needs to ask for its kernels. A replay asks once.
It computes on the same memory as the recording did, so all that changes from step to step stands in buffers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Replay:
    """An epoch's steps, each one replay of the first.

    Args:
        update: one whole step, (x, y, mix, ramp, keep) -> (3,): loss, share of hits and gradient norm. x (B, 1, H, W),
            y (B,), mix None or the shares (B,) and partners (B,) of mixup, ramp and keep tensors ().
        modules: all that a step changes, the optimizer's state aside.
        optimizer: its learning rates are tensors, see `make_optimizer`.
        shape: (steps, B, H, W).  mixup: whether there is a mix.  layout: the memory format of x.

    Source: Nguyen et al., "Accelerating PyTorch with CUDA Graphs", PyTorch blog, 2021. Needs a CUDA device.
    """

    def __init__(self, update: Callable, modules: list[nn.Module], optimizer, shape, mixup: bool, layout, device: str):
        steps, batch, *side = shape
        self.update, self.optimizer, self.mixup, self.layout = update, optimizer, mixup, layout
        self.x = torch.zeros(steps, batch, 1, *side, device=device)
        self.y = torch.zeros(steps, batch, dtype=torch.long, device=device)
        self.shares = torch.zeros(steps, batch, device=device)
        self.partners = torch.zeros(steps, batch, dtype=torch.long, device=device)
        self.schedule = torch.zeros(steps, 3, device=device)  # learning rate, ramp, keep
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.results = torch.zeros(steps, 3, device=device)
        tensors = [t for module in modules for t in module.state_dict().values()]
        before = [t.clone() for t in tensors]
        moments = {p: {k: v.clone() for k, v in own.items()} for p, own in optimizer.state.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels and take their memory here
            for _ in range(3):
                self.one()
                self.step.zero_()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()
        with torch.cuda.graph(self.graph):
            self.one()
        with torch.no_grad():  # the trial steps never were
            for t, old in zip(tensors, before, strict=True):
                t.copy_(old)
            for p, own in optimizer.state.items():
                for key, value in own.items():
                    value.copy_(moments[p][key] if p in moments else torch.zeros_like(value))

    @staticmethod
    def works_on(device: str) -> bool:
        return torch.device(device).type == "cuda"

    def one(self) -> None:
        """The step whose number stands in `self.step`, which then counts on. What is recorded."""

        def now(rows: Tensor) -> Tensor:
            return rows.index_select(0, self.step)[0]

        x, y, (rate, ramp, keep) = now(self.x), now(self.y), now(self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate)
        mix = (now(self.shares), now(self.partners)) if self.mixup else None
        result = self.update(x.contiguous(memory_format=self.layout), y, mix, ramp, keep)
        self.results.index_copy_(0, self.step, result[None])
        self.step += 1

    def epoch(self, x: Tensor, y: Tensor, mix: tuple[Tensor, Tensor] | None, schedule: Tensor) -> Tensor:
        """x (steps B, 1, H, W), y (steps B,), shares and partners (steps, B), schedule (steps, 3) -> (steps, 3)."""
        self.x.copy_(x.view_as(self.x))
        self.y.copy_(y.view_as(self.y))
        if self.mixup:
            self.shares.copy_(mix[0])
            self.partners.copy_(mix[1])
        self.schedule.copy_(schedule)
        self.step.zero_()
        for _ in range(len(self.x)):
            self.graph.replay()
        return self.results.clone()
