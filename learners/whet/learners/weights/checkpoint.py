"""Checkpoints: the whole state of a run in one file, which belongs to one configuration and one set of data.

save(path, identity, state)           # whole or not at all
state = load(path, identity, device)  # refused where the identity differs, with the keys that do
"""

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import torch
from torch import Tensor

from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.wire import encode
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.distributed import like, whole
from whet.learners.weights.files import write_whole
from whet.learners.weights.lora import TunedModel
from whet.learners.weights.objectives import Objective

__all__ = ["Identity", "identity_of", "load", "restore", "save", "whole_state"]

Identity: TypeAlias = dict[str, str]

_PRACTICAL = ("save_every", "threads", "micro_tokens", "chunk", "checkpointing", "device")
"""What changes where and how fast something is computed, not what: a run may go on with other values of it."""


def identity_of(
    tuned: TunedModel, config: TrainConfig, objectives: Mapping[str, Objective], data: Sequence[Datum]
) -> Identity:
    """Returns what a checkpoint is of, by name; equal identities make equal runs."""
    settings = {name: value for name, value in _fields(config).items() if name not in _PRACTICAL}
    losses = {f"objective {term!r}": objective for term, objective in objectives.items()}
    found = {name: encode(value).decode() for name, value in (settings | losses).items()}
    return found | {"data": digest(encode(list(data)))[:16], "model": tuned.fingerprint}


def save(path: Path, identity: Identity, state: Mapping[str, object]) -> None:
    """Writes a checkpoint.

    Raises:
        StoreError: it cannot be written; the previous one is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"identity": identity, **state}, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path, identity: Identity, device: torch.device) -> dict[str, object]:
    """Returns the state of a checkpoint.

    Raises:
        UserError: the file is none, or it is of another run; the message names what differs.
    """
    try:
        state: dict[str, object] = torch.load(path, weights_only=True, map_location=device)
        known = msgspec.convert(state["identity"], Identity)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, msgspec.ValidationError) as error:
        raise UserError(f"{str(path)!r} is no checkpoint of this trainer; delete it to begin anew") from error
    if different := _differences(known, identity):
        raise UserError(f"{str(path)!r} is of another run: {'; '.join(different)}; undo that, or begin in a new folder")
    return state


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns an optimiser's state with the shares of all processes put together; all of them have to ask for it."""
    found = optimizer.state_dict()
    state = {
        number: {name: whole(value) if isinstance(value, Tensor) else value for name, value in own.items()}
        for number, own in found["state"].items()
    }
    return found | {"state": state}


def restore(optimizer: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Puts a whole state back into an optimiser, each process its share of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: like(parameters[number], value) if value.shape == parameters[number].shape else value
            for name, value in own.items()
        }
        for number, own in kept["state"].items()
    }
    optimizer.load_state_dict({**kept, "state": state})


def _fields(config: TrainConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__struct_fields__}


def _differences(known: Identity, now: Identity) -> list[str]:
    names = [name for name in (known | now) if known.get(name) != now.get(name)]
    return [f"{name} was {known.get(name, 'absent')}, is {now.get(name, 'absent')}" for name in names]
