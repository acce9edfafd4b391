"""LoRA as one operation gives what peft's layers give, in values and gradients, and keeps less."""

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from whet.core.models.tiny.model import WEIGHTS
from whet.learners.weights.fused import fuse

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def adapted(*, dtype: torch.dtype = torch.float32, **options: object) -> peft.PeftModel:
    """Returns the embedded model with factors that do something."""
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=dtype)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, factor in model.named_parameters():
            if "lora_" in name:
                factor += 0.05 * torch.randn(factor.shape)
    return model


def computed(model: peft.PeftModel) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(input_ids=IDS).logits
    logits.float().pow(2).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_values_and_gradients_are_those_of_peft(dtype: torch.dtype, tolerance: float) -> None:
    plain, fused = adapted(dtype=dtype), adapted(dtype=dtype)
    assert fuse(fused) == 4 * 7
    (theirs, their_grads), (mine, my_grads) = computed(plain), computed(fused)
    torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))
    assert my_grads.keys() == their_grads.keys()
    assert len(my_grads) == 2 * 4 * 7
    for name, grad in my_grads.items():
        assert grad.dtype == torch.float32
        scale = float(their_grads[name].abs().max())
        torch.testing.assert_close(grad, their_grads[name], rtol=tolerance, atol=tolerance * scale)


def test_a_bias_of_the_base_is_added() -> None:
    base = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    config = peft.LoraConfig(r=2, target_modules=["0", "1"])
    plain = peft.get_peft_model(base, config)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = plain(x)
    assert fuse(plain) == 2
    torch.testing.assert_close(plain(x), expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = peft.get_peft_model(nn.Sequential(nn.Linear(3, 4)).double(), peft.LoraConfig(r=2, target_modules=["0"]))
    layer = model.base_model.model[0]
    factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    with torch.no_grad():
        for factor in factors:
            factor.copy_(torch.randn(factor.shape))
    fuse(model)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(model(x).pow(3).sum(), [x, *factors])
    for value, grad in zip([x, *factors], found, strict=True):
        with torch.no_grad():
            step, before = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value), value.clone()
            value.copy_(before + 1e-6 * step)
            above = model(x).pow(3).sum()
            value.copy_(before - 1e-6 * step)
            below = model(x).pow(3).sum()
            value.copy_(before)
        torch.testing.assert_close((grad * step).sum(), (above - below) / 2e-6, rtol=1e-4, atol=1e-6)


def test_the_adapter_can_still_be_switched_off() -> None:
    plain, fused = adapted(), adapted()
    fuse(fused)
    with torch.no_grad(), plain.disable_adapter(), fused.disable_adapter():
        assert torch.equal(fused(input_ids=IDS).logits, plain(input_ids=IDS).logits)


@pytest.mark.filterwarnings("ignore:.lora_bias=True")
@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}])
def test_layers_that_do_more_compute_as_before(options: dict[str, object]) -> None:
    model = adapted(**options)
    expected = model(input_ids=IDS).logits
    assert fuse(model) == 0
    assert torch.equal(model(input_ids=IDS).logits, expected)


class Kept:
    """Counts what autograd keeps besides parameters, each storage once."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.bytes = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def test_no_more_is_kept_than_by_peft() -> None:
    kept = []
    for make_fused in (False, True):
        model = adapted()
        if make_fused:
            fuse(model)
        counter = Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(counter, lambda tensor: tensor):
            logits = model(input_ids=IDS.repeat(1, 20)).logits
        kept.append(counter.bytes)
        assert logits.requires_grad
    assert kept[1] <= kept[0]
