"""Which models can be trained: those whose logits and attention training computes as they do, tried on a few tokens.

    check_supported(model)          # raises before anything is trained wrongly

A model is tried rather than looked up in a list, so that new ones need no release of Whet.
"""

import torch
import transformers
from torch import Tensor, nn

from whet.core.errors import UserError
from whet.learners.weights.datum import Datum
from whet.learners.weights.packing import pack

__all__ = ["check_supported"]

_PROBES = ((1, 2, 3, 4, 5), (5, 3, 2, 6, 1), (1, 2, 7, 3, 4))


@torch.no_grad()
def check_supported(causal: transformers.PreTrainedModel) -> None:
    """Refuses a model that training would not follow; ``use_packed_attention`` comes before.

    Raises:
        UserError: its vocabulary head has a bias or an adapter, its logits have soft caps or scales, or a packed row
            mixes its sequences (by a state, a convolution, an attention of its own).
    """
    try:
        _check_logits(causal)
        _check_packing(causal)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _refusal(causal, f"takes no packed rows ({' '.join(str(error).split())[:200]})") from error


def _check_logits(causal: transformers.PreTrainedModel) -> None:
    output = causal.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(output, nn.Linear) or output.bias is not None:
        raise _refusal(causal, "has no plain vocabulary head; models with a linear one without bias can be")
    ids = _ids(causal, _PROBES[0])
    hidden = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if hidden.shape[-1] != output.weight.shape[1]:
        raise _refusal(causal, "projects its hidden states before the vocabulary head")
    if _differ(hidden @ output.weight.T, causal(input_ids=ids, use_cache=False).logits):
        raise _refusal(causal, "changes its logits after the vocabulary head")


def _check_packing(causal: transformers.PreTrainedModel) -> None:
    if getattr(causal.config, "attention_chunk_size", None):
        raise _refusal(causal, "attends within chunks")
    probes = [_ids(causal, ids) for ids in _PROBES]
    device = probes[0].device
    row = pack([Datum(tokens=tuple(ids[0].tolist()), mask=(False, *(True,) * 4)) for ids in probes], device)
    hidden_td = causal.base_model(**row.inputs()).last_hidden_state[0]
    for ids, places in zip(probes, row.places, strict=True):
        alone = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        if _differ(hidden_td[list(places)], alone):
            raise _refusal(causal, "mixes sequences that lie side by side in a packed row")


def _ids(causal: transformers.PreTrainedModel, probe: tuple[int, ...]) -> Tensor:
    first = next(causal.parameters())
    return torch.tensor([probe], device=first.device) % int(causal.config.get_text_config().vocab_size)


def _differ(one: Tensor, other: Tensor) -> bool:
    tolerance = 0.05 if one.dtype == torch.bfloat16 else 1e-4
    return bool((one - other).abs().max() > tolerance * (1 + one.abs().max()))


def _refusal(causal: transformers.PreTrainedModel, why: str) -> UserError:
    return UserError(f"{type(causal).__name__} cannot be trained: it {why}")
