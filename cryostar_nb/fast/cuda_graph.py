"""A training step recorded once on a GPU and replayed from then on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cryostar_nb.fast.dispatch import available

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def can_capture(fabric: "Fabric") -> bool:
    """Whether a step can be recorded as a CUDA graph: one GPU, and kernels for everything in the step."""
    return (
        fabric.world_size == 1
        and available(torch.empty(0, device=fabric.device))
        and fabric.device.type == "cuda"
    )


class CapturedStep:
    """A training step recorded once as a CUDA graph and replayed from then on.

    A step of a small molecule is some two hundred short kernels; launching them one by one takes longer than running them.
    `step` takes tensors of fixed shapes and returns a dictionary of tensors; nothing in it may wait for the GPU. The outputs
    of a call are overwritten by the next one. Recording runs the step a few times; the weights and the state of the
    optimiser are put back afterwards, in place.
    """

    def __init__(
        self,
        step: Callable[..., dict[str, Tensor]],
        inputs: tuple[Tensor, ...],
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self.inputs = tuple(torch.empty_like(given).copy_(given) for given in inputs)
        weights = [(weight, weight.detach().clone()) for weight in network.parameters()]
        moments = {
            id(value): value.clone()
            for state in optimiser.state.values()
            for value in state.values()
        }
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = step(*self.inputs)
        with torch.no_grad():
            for weight, before in weights:
                weight.copy_(before)
            for state in optimiser.state.values():
                for value in state.values():
                    if id(value) in moments:
                        value.copy_(moments[id(value)])
                    else:  # it did not exist before the first step
                        value.zero_()

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Take one step on other inputs."""
        for fixed, given in zip(self.inputs, inputs, strict=True):
            fixed.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs
