"""The model under training: a frozen base with LoRA factors, its vocabulary head, and several sets of weights.

    tuned = TunedModel(base_folder, config)
    with tuned.weights("initial"): reference = tuned.hidden(packed)      # no second model
    tuned.save(folder)                                                   # a standard peft adapter

LoRA (Hu et al. 2021, arXiv 2106.09685) on all linear layers but the vocabulary head.
"""

import functools
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import peft
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from whet.core.errors import StoreError, UserError
from whet.core.ids import digest
from whet.learners.weights.attention import use_packed_attention
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.distributed import ALONE, World, whole
from whet.learners.weights.fused import fuse
from whet.learners.weights.logprobs import token_logprobs
from whet.learners.weights.packing import Packed
from whet.learners.weights.supported import check_supported

__all__ = ["TunedModel", "Weights"]

Weights: TypeAlias = Literal["live", "initial", "ema"]
HEAD = "head.safetensors"


class TunedModel:
    """A causal language model with trainable LoRA factors and, where asked for, a scalar head.

    ``init``: an adapter to go on from. ``head``: adds the scalar head (of ``init``, where it has one).

    Raises:
        UserError: there is no such model or adapter, the adapter is of another shape, or the model computes its
            logits or its attention in a way that is not supported.

    ``fingerprint`` is a digest of a few numbers of every parameter at the start: models of one shape differ in it, too.
    """

    def __init__(
        self,
        base: str | Path,
        config: TrainConfig,
        *,
        init: Path | None = None,
        head: bool = False,
        world: World = ALONE,
    ) -> None:
        self.base, self.config, self.world = Path(base), config, world
        self.device = world.device(_device(config.device))
        self.causal = _load_base(self.base, _dtype(config.dtype, self.device))
        if world.alone:  # or each layer goes there when it is shared out
            self.causal.to(self.device)  # type: ignore[arg-type]
        use_packed_attention(self.causal)
        self.fresh = init is None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = _with_lora(self.causal, config) if init is None else _with_adapter(self.causal, config, init)
        self.model.eval()
        fuse(self.model)
        self.fingerprint = _fingerprint(self.causal)
        world.shard(self.causal, self.device)
        check_supported(self.causal)
        if config.checkpointing:
            _checkpoint_layers(self.causal)
        self.head = _head(self.width, init).to(self.device) if head else None
        self.ema: dict[str, Tensor] | None = None
        self._initial = None if self.fresh else self._copy()

    @property
    def width(self) -> int:
        """The size of the hidden states."""
        return int(self.head_vd.shape[1])

    @property
    def vocabulary(self) -> int:
        """The number of tokens the model knows."""
        return int(self.head_vd.shape[0])

    @property
    def head_vd(self) -> Tensor:
        """The vocabulary head, (V, d)."""
        output = self.causal.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(output, nn.Linear), "checked when the model was loaded"
        return output.weight

    def factors(self) -> dict[str, nn.Parameter]:
        """Returns the trainable LoRA factors by name."""
        return {name: p for name, p in self.model.named_parameters() if "lora_" in name}

    def trainable(self) -> list[nn.Parameter]:
        """Returns everything that the optimiser changes."""
        return [*self.factors().values(), *([] if self.head is None else self.head.parameters())]

    def groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """Returns the same in the optimiser's groups: factors may be shares of a process, a head never is."""
        heads = [] if self.head is None else [{"params": list(self.head.parameters())}]
        return [{"params": list(self.factors().values())}, *heads]

    def hidden(self, packed: Packed) -> Tensor:
        """Returns the last hidden states of a packed row, (T, d)."""
        output: Tensor = self.causal.base_model(**packed.inputs()).last_hidden_state[0]
        return output

    def logprobs(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Returns logprob and entropy of each counted token, (N,) each."""
        predicting_nd = self.hidden(packed)[packed.before_n]
        return token_logprobs(predicting_nd, self.head_vd, packed.targets_n, chunk=self.config.chunk)

    @contextmanager
    def weights(self, kind: Weights) -> Iterator[None]:
        """Computes with another set of factors while the block lasts: those at the start, or their moving average."""
        if kind == "initial" and self.fresh:
            with self.model.disable_adapter():
                yield
        elif kind == "live":
            yield
        else:
            other = self._initial if kind == "initial" else self.ema
            assert other is not None, f"the trainer keeps {kind} factors before they are asked for"
            self._swap(other)
            try:
                yield
            finally:
                self._swap(other)

    def keep_ema(self) -> None:
        """Begins a moving average of the factors."""
        self.ema = self.ema or self._copy()

    @torch.no_grad()
    def update_ema(self, rate: float) -> None:
        """Moves the average towards the factors: ema ← (1 − rate)·ema + rate·factors."""
        assert self.ema is not None, "keep_ema comes first"
        for name, factor in self.factors().items():
            self.ema[name].lerp_(factor, rate)

    def save(self, folder: Path, *, name: str = "") -> None:
        """Writes a peft adapter (and the head) into a folder; ``name`` is how the base is called in it.

        Of several processes, all of which have to call it, the first one writes.

        Raises:
            StoreError: it cannot be written; nothing of it is left, and what was there is untouched.
        """
        factors = {key: whole(factor.detach()) for key, factor in self.factors().items()}
        if not self.world.leads:
            return
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            beside.mkdir(parents=True, exist_ok=True)
            self._write(beside, name or self.base.name, factors)
            folder.mkdir(exist_ok=True)
            for path in beside.iterdir():
                path.replace(folder / path.name)
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"the adapter cannot be written to {str(folder)!r}: {error}; nothing was changed"
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _write(self, folder: Path, name: str, factors: dict[str, Tensor]) -> None:
        self.model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=factors)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": name}
        if isinstance(config["target_modules"], list):  # peft keeps a set, whose order is another one in every process
            config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (folder / "README.md").unlink(missing_ok=True)
        if self.head is not None:
            save_file({name: p.detach().cpu().contiguous() for name, p in self.head.named_parameters()}, folder / HEAD)

    def _copy(self) -> dict[str, Tensor]:
        return {name: factor.detach().clone() for name, factor in self.factors().items()}

    @torch.no_grad()
    def _swap(self, other: dict[str, Tensor]) -> None:
        # The values change places, not the tensors: a process's share of the weights knows where its own lie.
        for name, factor in self.factors().items():
            kept = factor.clone()
            factor.copy_(other[name])
            other[name].copy_(kept)


def _device(wanted: str) -> torch.device:
    found = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(found)
    except RuntimeError as error:
        raise UserError(f"device {wanted!r} is none; give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {wanted!r} is not there; this machine (or this build of torch) has no CUDA")
    return device


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if wanted == "float32" else torch.bfloat16


def _load_base(folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=dtype
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{str(folder)!r} is no transformers model: {' '.join(str(error).split())[:200]}") from error
    return model


def _with_lora(causal: transformers.PreTrainedModel, config: TrainConfig) -> peft.PeftModel:
    _check_targets(causal, config)
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    lora = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        with warnings.catch_warnings():
            # peft reads a property that transformers is about to rename.
            warnings.filterwarnings("ignore", category=FutureWarning)
            return peft.get_peft_model(causal, lora)
    except ValueError as error:
        raise UserError(f"targets {config.targets!r} do not fit the model: {' '.join(str(error).split())}") from error


def _check_targets(causal: transformers.PreTrainedModel, config: TrainConfig) -> None:
    """Refuses an adapter on the vocabulary head, whose plain weights training multiplies with."""
    head = causal.get_output_embeddings()  # type: ignore[no-untyped-call]
    name = next((name for name, module in causal.named_modules() if module is head), "")
    if isinstance(config.targets, str):
        hit = re.fullmatch(config.targets, name) is not None
    else:
        hit = any(name == target or name.endswith(f".{target}") for target in config.targets)
    if hit:
        raise UserError(
            f"targets {config.targets!r} hold the vocabulary head {name!r}, which stays frozen; leave it out"
        )


def _with_adapter(causal: transformers.PreTrainedModel, config: TrainConfig, init: Path) -> peft.PeftModel:
    try:
        model = peft.PeftModel.from_pretrained(causal, str(init), is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{str(init)!r} is no adapter of this model: {' '.join(str(error).split())[:200]}") from error
    _check_shape(model, config, init)
    return model


def _check_shape(model: peft.PeftModel, config: TrainConfig, init: Path) -> None:
    """Refuses an adapter whose rank, alpha or targets are not those of the configuration."""
    found = model.peft_config["default"].to_dict()
    if found["peft_type"] != "LORA":
        raise UserError(f"{str(init)!r} is an adapter of the kind {found['peft_type']}; only LoRA is trained further")
    for name, key, wanted in (("rank", "r", config.rank), ("alpha", "lora_alpha", config.alpha)):
        if found[key] != wanted:
            raise UserError(f"the adapter to go on from has {name} {found[key]}, not {wanted}; set {name}={found[key]}")
    targets = found["target_modules"]
    if not isinstance(config.targets, str) and not isinstance(targets, str) and set(targets) != set(config.targets):
        raise UserError(f"the adapter to go on from has the targets {sorted(targets)}, not {sorted(config.targets)}")


def _head(width: int, init: Path | None) -> nn.Linear:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if init is not None and (init / HEAD).is_file():
        head.load_state_dict(load_file(init / HEAD))
    return head


def _fingerprint(causal: nn.Module) -> str:
    sample = [p.detach().flatten()[:8].float().cpu() for p in causal.parameters()]
    return digest(torch.cat(sample).numpy().tobytes())[:16]


def _checkpoint_layers(causal: transformers.PreTrainedModel) -> None:
    """Makes every layer compute its activations again in the backward pass; dropout stays off."""
    layers = [module for module in causal.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{type(causal).__name__} has no layers that can be checkpointed; leave checkpointing out")
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        vars(layer)["_gradient_checkpointing_func"] = functools.partial(checkpoint, use_reentrant=False)
