"""Several processes, one training: every process computes a share of each batch, and holds a share of the weights.

    torchrun --nproc-per-node 4 -m whet.learners.weights.job FOLDER

    with joined() as world:                       # from the environment; alone where there is none
        Trainer(base, config, objectives, world=world).fit(data)

The decoder layers of the base, with their LoRA factors, are sharded (FSDP2, ``torch.distributed.fsdp.fully_shard``):
over NCCL on GPUs, over Gloo on CPUs. The gradient is that of one process: the loss is a sum over the batch divided by a
normaliser of the whole batch, which every process knows, since all read the same data and draw the same batches.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from whet.core.errors import ModelError, UserError
from whet.learners.weights.datum import Datum
from whet.learners.weights.packing import micro_batches

__all__ = ["ALONE", "Work", "World", "is_lost", "joined", "like", "whole"]

T = TypeVar("T")
Unit = Sequence[Datum]

_PATIENCE = timedelta(minutes=10)
_LOST = ("connection closed by peer", "connection reset", "timed out", "nccl", "gloo", "broken pipe")


@dataclass(frozen=True)
class Work:
    """A micro-batch, and whether it counts: where a process has less to do than others it computes one for nothing."""

    data: list[Datum]
    counts: bool = True


@dataclass(frozen=True)
class World:
    """The processes that train together: the rank of this one, how many there are, and its place on the machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def work(self, units: Sequence[Unit], tokens: int) -> list[Work]:
        """Returns this process's micro-batches of at most ``tokens`` tokens.

        Every process has as many, so that none waits for ever for the others: all take part in every gathering of
        weights.
        """
        if self.alone:
            return [Work(micro) for micro in micro_batches(units, tokens)]
        cut = [micro_batches(share, tokens) for share in _shares(units, self.size)]
        mine, rounds = cut[self.rank], max(map(len, cut))
        if len(mine) == rounds:
            return [Work(micro) for micro in mine]
        shortest = min(units, key=_size)
        idle = [Work(list(shortest), counts=False)] * (rounds - len(mine))
        return [*(Work(micro) for micro in mine), *idle]

    def gather(self, value: T) -> list[T]:
        """Returns the value of every process, in the order of ranks; tensors have to be on the CPU."""
        if self.alone:
            return [value]
        found: list[T] = [value] * self.size
        dist.all_gather_object(found, value)
        return found

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the sum over all processes of every value, by name."""
        total: dict[str, float] = {}
        for found in self.gather(dict(values)):
            for name, value in found.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def shard(self, causal: transformers.PreTrainedModel, device: torch.device) -> None:
        """Leaves each process a share of the decoder layers, with the factors in them, on its device.

        What is no decoder layer (embeddings, the vocabulary head, norms) stays whole in every process.

        Raises:
            UserError: the model has no decoder layers that are known as such.
        """
        if self.alone:
            return
        from torch.distributed.fsdp import fully_shard

        layers = [module for module in causal.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise UserError(f"{type(causal).__name__} has no decoder layers to share out; train in one process")
        mesh = init_device_mesh(device.type, (self.size,))
        inside = {parameter for layer in layers for parameter in layer.parameters()}
        outside = {parameter for parameter in causal.parameters() if parameter not in inside}
        for layer in layers:  # one after the other, so that no device ever holds the whole model
            fully_shard(layer, mesh=mesh)
        fully_shard(causal.base_model, mesh=mesh, ignored_params=outside)
        for parameter in outside:
            parameter.data = parameter.data.to(device)
        for module in causal.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def device(self, wanted: torch.device) -> torch.device:
        """Returns this process's own device of the kind that is wanted.

        Raises:
            UserError: there are more processes than GPUs.
        """
        if self.alone or wanted.type != "cuda":
            return wanted
        if self.local >= torch.cuda.device_count():
            raise UserError(
                f"process {self.local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; "
                "start as many processes as there are GPUs (--nproc-per-node)"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    @torch.no_grad()
    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Returns the norm of the gradient over all processes, after scaling it down to ``most``.

        Gradients of parameters that are no shares are first averaged over the processes, as those of shares have been.
        """
        if self.alone:
            return float(nn.utils.clip_grad_norm_(parameters, most))
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        shares = [grad.to_local() for grad in grads if isinstance(grad, DTensor)]
        wholes = [grad for grad in grads if not isinstance(grad, DTensor)]
        for grad in wholes:
            dist.all_reduce(grad)
            grad /= self.size
        squares = torch.stack([share.float().square().sum() for share in shares]).sum()
        dist.all_reduce(squares)
        norm = float((squares + sum(grad.float().square().sum() for grad in wholes)).sqrt())
        if norm > most:
            for part in (*shares, *wholes):
                part *= most / (norm + 1e-6)
        return norm


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """Joins the processes that ``torchrun`` (or whoever set its variables) started; leaves them at the end.

    Raises:
        UserError: a variable is missing or no number.
        ModelError: the others did not come.
    """
    world = _world(os.environ)
    if world.alone:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the {world.size} processes did not find each other: {error}", failure="other") from error
    try:
        yield world
        _leave()
    finally:
        dist.destroy_process_group()


def _leave() -> None:
    """Waits until all are done. One that is gone by now was done as well, or says itself what was wrong."""
    try:
        dist.barrier()
    except RuntimeError as error:
        if not is_lost(error):
            raise


def _world(environment: Mapping[str, str]) -> World:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in environment:
        return ALONE
    try:
        rank, size, local = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{', '.join(names)} have to be numbers, as torchrun sets them; unset WORLD_SIZE to train in one process"
        ) from error
    return World(rank, size, local)


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process is gone, rather than what is wrong."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in said for sign in _LOST)


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor from the shares of all processes, which all have to ask for it; a whole one as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    found: Tensor = tensor.full_tensor()
    return found


def like(share: Tensor, full: Tensor) -> Tensor:
    """Returns a whole tensor divided over the processes as another one is."""
    if not isinstance(share, DTensor):
        return full
    return distribute_tensor(full.to(share.device), share.device_mesh, share.placements, src_data_rank=None)


def _shares(units: Sequence[Unit], size: int) -> list[list[Unit]]:
    """Returns the units divided into shares of alike numbers of tokens: the longest first, to who has least."""
    shares: list[list[Unit]] = [[] for _ in range(size)]
    loads = [0] * size
    for unit in sorted(units, key=_size, reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(unit)
        loads[lightest] += _size(unit)
    return shares


def _size(unit: Unit) -> int:
    return sum(len(datum.tokens) for datum in unit)
