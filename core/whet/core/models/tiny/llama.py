"""A Llama forward pass in NumPy with a key-value cache, float32, one sequence at a time.

Made for models of some million parameters, where the cost is the number of calls rather than of multiplications: the
query, key and value matrices are one product, and so are gate and up. Follows transformers' ``LlamaForCausalLM``
(Touvron et al. 2023, arXiv 2302.13971: RMSNorm, rotary positions, SwiGLU); tests hold the logits to 1e-4 of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from whet.core.errors import UserError

__all__ = ["Cache", "Llama", "LlamaShape", "load_llama"]

Array: TypeAlias = NDArray[np.float32]
_PROJECTION = re.compile(r"(?:base_model\.model\.)?(?P<name>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a model, as its ``config.json`` gives them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    epsilon: float
    theta: float
    context: int


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer, (in, out): ``qkv`` and ``gate_up`` are joined along the outputs."""

    input_norm: Array
    qkv: Array
    out: Array
    post_norm: Array
    gate_up: Array
    down: Array


class Cache:
    """Keys and values of the positions seen: (layer, kv head, position, head size)."""

    def __init__(self, shape: LlamaShape, capacity: int) -> None:
        size = (shape.layers, shape.kv_heads, capacity, shape.head)
        self.keys = np.zeros(size, np.float32)
        self.values = np.zeros(size, np.float32)
        self.length = 0


class Llama:
    """The model: ``logits(ids, cache)`` runs further positions and returns the last one's logits."""

    def __init__(self, shape: LlamaShape, tensors: Mapping[str, Array]) -> None:
        self.shape = shape
        self._embed = tensors["model.embed_tokens.weight"]
        self._head = np.ascontiguousarray(tensors.get("lm_head.weight", self._embed).T)
        self._norm = tensors["model.norm.weight"]
        self._layers = [_layer(tensors, index) for index in range(shape.layers)]
        frequencies = shape.theta ** (-np.arange(0, shape.head, 2, dtype=np.float64) / shape.head)
        angles = np.outer(np.arange(shape.context), np.concatenate([frequencies, frequencies]))
        self._cos, self._sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def cache(self, capacity: int) -> Cache:
        """Returns an empty cache for ``capacity`` positions."""
        return Cache(self.shape, min(capacity, self.shape.context))

    def logits(self, ids: Sequence[int], cache: Cache) -> Array:
        """Returns the logits (vocabulary,) after the last of ``ids``, which follow what the cache holds."""
        last: Array = self._run(ids, cache)[-1]
        return last @ self._head

    def all_logits(self, ids: Sequence[int]) -> Array:
        """Returns the logits (position, vocabulary) of a whole sequence."""
        return self._run(ids, self.cache(len(ids))) @ self._head

    def _run(self, ids: Sequence[int], cache: Cache) -> Array:
        start, end = cache.length, cache.length + len(ids)
        cos, sin = self._cos[start:end], self._sin[start:end]
        x = self._embed[np.asarray(ids)]
        for index, layer in enumerate(self._layers):
            x = x + self._attend(layer, self._rms(x, layer.input_norm), cos, sin, cache, index)
            gate, up = np.split(self._rms(x, layer.post_norm) @ layer.gate_up, 2, axis=-1)
            silu = gate * (np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * gate))  # never overflows
            x = x + (silu * up) @ layer.down
        cache.length = end
        return self._rms(x, self._norm)

    def _attend(self, layer: _Layer, x: Array, cos: Array, sin: Array, cache: Cache, index: int) -> Array:
        shape, n = self.shape, len(x)
        start, end = cache.length, cache.length + n
        qkv = (x @ layer.qkv).reshape(n, -1, shape.head).transpose(1, 0, 2)  # (heads, position, head size)
        query, key = _rotate(qkv[: shape.heads + shape.kv_heads], cos, sin, shape.heads)
        cache.keys[index, :, start:end] = key
        cache.values[index, :, start:end] = qkv[shape.heads + shape.kv_heads :]
        groups = shape.heads // shape.kv_heads
        keys, values = cache.keys[index, :, :end], cache.values[index, :, :end]
        query = query.reshape(shape.kv_heads, groups * n, shape.head)
        scores: Array = (query @ keys.transpose(0, 2, 1)).reshape(shape.kv_heads, groups, n, end)
        scores *= np.float32(shape.head**-0.5)
        if n > 1:
            scores += np.triu(np.full((n, end), -np.inf, np.float32), start + 1)
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        mixed = scores.reshape(shape.kv_heads, groups * n, end) @ values
        joined: Array = mixed.reshape(shape.heads, n, shape.head).transpose(1, 0, 2).reshape(n, -1)
        return joined @ layer.out

    def _rms(self, x: Array, weight: Array) -> Array:
        mean = np.einsum("td,td->t", x, x)[:, None] / np.float32(x.shape[-1])
        normed: Array = x / np.sqrt(mean + np.float32(self.shape.epsilon)) * weight
        return normed


def _rotate(x: Array, cos: Array, sin: Array, heads: int) -> tuple[Array, Array]:
    """Returns rotated queries and keys of ``x`` (heads + kv heads, position, head size)."""
    half = x.shape[-1] // 2
    swapped: Array = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    turned = x * cos + swapped * sin
    return turned[:heads], turned[heads:]


def _layer(tensors: Mapping[str, Array], index: int) -> _Layer:
    def joined(*names: str) -> Array:
        parts = [tensors[f"model.layers.{index}.{name}.weight"] for name in names]
        return np.ascontiguousarray(np.concatenate(parts).T)

    return _Layer(
        tensors[f"model.layers.{index}.input_layernorm.weight"],
        joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        joined("self_attn.o_proj"),
        tensors[f"model.layers.{index}.post_attention_layernorm.weight"],
        joined("mlp.gate_proj", "mlp.up_proj"),
        joined("mlp.down_proj"),
    )


def load_llama(folder: Path, adapter: Path | None = None) -> Llama:
    """Returns the model of a transformers folder; a peft LoRA folder is merged into its weights.

    Raises:
        UserError: a file is missing, or the folder holds what this forward pass does not compute.
    """
    config = _read(folder / "config.json")
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise UserError(f"{folder} holds no plain Llama model; load it as hf:{folder}")
    tensors = {name: array.astype(np.float32) for name, array in load_file(folder / "model.safetensors").items()}
    if adapter is not None:
        _merge(tensors, adapter)
    return Llama(_shape(config), tensors)


def _shape(config: Mapping[str, object]) -> LlamaShape:
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    heads, width = _number(config["num_attention_heads"]), _number(config["hidden_size"])
    return LlamaShape(
        layers=int(_number(config["num_hidden_layers"])),
        width=int(width),
        heads=int(heads),
        kv_heads=int(_number(config.get("num_key_value_heads") or heads)),
        head=int(_number(config.get("head_dim") or width // heads)),
        epsilon=_number(config["rms_norm_eps"]),
        theta=_number(theta or config.get("rope_theta") or 10000.0),
        context=int(_number(config["max_position_embeddings"])),
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise UserError(f"config.json holds {value!r} where a number belongs")
    return value


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} is no JSON object")
    return content


def _merge(tensors: dict[str, Array], adapter: Path) -> None:
    """Adds ``scale * B @ A`` to each adapted matrix (Hu et al. 2021, arXiv 2106.09685)."""
    config = _read(adapter / "adapter_config.json")
    unsupported = [key for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or unsupported or config.get("bias", "none") != "none":
        raise UserError(f"adapter {str(adapter)!r} is no plain LoRA ({', '.join(unsupported) or 'peft_type or bias'})")
    rank = _number(config["r"])
    scale = _number(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"adapter {str(adapter)!r} has no adapter_model.safetensors")
    sides: dict[str, dict[str, Array]] = {}
    for key, array in load_file(path).items():
        match = _PROJECTION.match(key)
        if match is None or f"{match['name']}.weight" not in tensors:
            raise UserError(f"adapter {str(adapter)!r} changes {key!r}, which this model does not have")
        sides.setdefault(match["name"], {})[match["side"]] = array.astype(np.float32)
    for name, pair in sides.items():
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + np.float32(scale) * (pair["B"] @ pair["A"])
