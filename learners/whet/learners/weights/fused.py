"""LoRA on a linear layer as one operation: y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, of which only x is kept for the backward pass.

    fuse(model)          # a peft model; every plain LoRA layer computes this way from now on

The factors may be fp32 where the model is bf16: they are rounded for the products, what is kept of them is not. The
result is that of peft's own layers, with fewer tensors of the size of the output on the way.
"""

import functools
from collections.abc import Callable

import peft
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["fuse"]

ADAPTER = "default"


def fuse(model: peft.PeftModel) -> int:
    """Returns how many layers compute in one operation from now on: those with a frozen base and nothing but LoRA."""
    found = [module for module in model.modules() if isinstance(module, Linear) and _plain(module)]
    for layer in found:
        layer.forward = functools.partial(_forward, layer, layer.forward)  # type: ignore[method-assign]
    return len(found)


def _plain(layer: Linear) -> bool:
    """Returns whether a layer is base and factors only: no dropout, magnitudes or biases of factors."""
    return (
        isinstance(layer.base_layer, nn.Linear)
        and not layer.base_layer.weight.requires_grad
        and list(layer.lora_A) == [ADAPTER]
        and ADAPTER not in layer.lora_variant
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and layer.lora_B[ADAPTER].bias is None
    )


def _forward(layer: Linear, otherwise: Callable[..., Tensor], x: Tensor, *more: object, **named: object) -> Tensor:
    if more or named or layer.disable_adapters or layer.merged or layer.active_adapters != [ADAPTER]:
        return otherwise(x, *more, **named)
    base = layer.base_layer
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    found: Tensor = _LoraLinear.apply(x, base.weight, base.bias, down, up, layer.scaling[ADAPTER])  # type: ignore[no-untyped-call]
    return found


class _LoraLinear(torch.autograd.Function):
    """Shapes: x (…, i), W (o, i), b (o) or ``None``, A (r, i), B (o, r)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scaling = scaling  # type: ignore[attr-defined]
        x_ti = x.flatten(0, -2)
        out_to = nn.functional.linear(x_ti, weight, bias)
        out_to.addmm_(x_ti @ down.to(x.dtype).T, up.to(x.dtype).T, alpha=scaling)
        return out_to.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors  # type: ignore[attr-defined]
        scaling, wanted = ctx.scaling, ctx.needs_input_grad  # type: ignore[attr-defined]
        x_ti, grad_to, low = x.flatten(0, -2), grad.flatten(0, -2), down.to(x.dtype)
        inner_tr = grad_to @ up.to(x.dtype) * scaling
        grad_down = (inner_tr.T @ x_ti).to(down.dtype)
        grad_up = ((grad_to.T @ (x_ti @ low.T)) * scaling).to(up.dtype)
        if not wanted[0]:
            return None, None, None, grad_down, grad_up, None
        grad_ti = (grad_to @ weight).addmm_(inner_tr, low)
        return grad_ti.view_as(x), None, None, grad_down, grad_up, None
