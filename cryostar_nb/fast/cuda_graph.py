"""A training step recorded once on a GPU and replayed from then on."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cryostar_nb.fast.dispatch import available

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def can_capture(fabric: "Fabric") -> bool:
    """Whether a step can be recorded as a CUDA graph: one GPU, and kernels for all of the step."""
    one_gpu = fabric.world_size == 1 and fabric.device.type == "cuda"
    return one_gpu and available(torch.empty(0, device=fabric.device))


class RecordedStep:
    """A training step that its first call records as a CUDA graph; every call replays the graph.

    Launching the two hundred short kernels of a step one by one takes longer than running them.
    `step` takes tensors of fixed shapes, or None, and returns a dictionary of tensors, which the
    next call overwrites; nothing in it may wait for the GPU. Recording runs the step a few times
    and then puts the weights, the buffers and the state of the optimiser back, in place.
    """

    def __init__(
        self,
        step: Callable[..., dict[str, Tensor]],
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self.step, self.network, self.optimiser = step, network, optimiser
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """Take one step on these inputs."""
        if self.graph is None:
            self.graph = self._record(inputs)
        for fixed, given in zip(self.inputs, inputs, strict=True):
            if fixed is not None and given is not None:
                fixed.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _record(self, inputs: tuple[Tensor | None, ...]) -> torch.cuda.CUDAGraph:
        self.inputs = tuple(given if given is None else given.clone() for given in inputs)
        changed = itertools.chain(self.network.parameters(), self.network.buffers())
        weights = [(weight, weight.detach().clone()) for weight in changed]
        states = self.optimiser.state.values()
        moments = {id(value): value.clone() for state in states for value in state.values()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.outputs = self.step(*self.inputs)
        with torch.no_grad():
            for weight, before in weights:
                weight.copy_(before)
            for state in self.optimiser.state.values():
                for value in state.values():  # zero where it did not exist before the first step
                    value.copy_(moments.get(id(value), torch.zeros_like(value)))
        return graph
