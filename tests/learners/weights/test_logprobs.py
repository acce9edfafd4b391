"""Log-probabilities and divergences in chunks are those of the whole vocabulary at once, in little memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from whet.learners.weights.logprobs import divergence, token_logprobs

N, D, V = 23, 8, 57
CHUNKS = (1, 7, 23, 1000)


def drawn(seed: int = 0, *, count: int = N, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Returns hidden states of a student and of a teacher, and a vocabulary head."""
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, D, generator=rng, dtype=dtype).requires_grad_(),
        torch.randn(count, D, generator=rng, dtype=dtype),
        torch.randn(vocabulary, D, generator=rng, dtype=dtype),
    ]


def targets(count: int = N, vocabulary: int = V) -> Tensor:
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(1))


def weights(count: int = N) -> Tensor:
    return torch.linspace(-1, 2, count, dtype=torch.float64)


def gradient(values_n: Tensor, hidden_nd: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((values_n * weights(len(values_n))).sum(), hidden_nd)
    return found


def reference(student_nd: Tensor, teacher_nd: Tensor, head_vd: Tensor, alpha: float) -> Tensor:
    """Returns the divergence as the papers write it."""
    p, q = torch.softmax(student_nd @ head_vd.T, -1), torch.softmax(teacher_nd @ head_vd.T, -1)
    if alpha == 0:
        return (q * (q / p).log()).sum(-1)
    if alpha == 1:
        return (p * (p / q).log()).sum(-1)
    m = alpha * q + (1 - alpha) * p
    return alpha * (q * (q / m).log()).sum(-1) + (1 - alpha) * (p * (p / m).log()).sum(-1)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_logprobs_entropy_and_gradient_are_those_of_log_softmax(chunk: int) -> None:
    hidden_nd, _, head_vd = drawn()
    logp_n, entropy_n = token_logprobs(hidden_nd, head_vd, targets(), chunk=chunk)
    plain_nv = torch.log_softmax(hidden_nd @ head_vd.T, -1)
    plain_n = plain_nv.gather(1, targets()[:, None])[:, 0]
    torch.testing.assert_close(logp_n, plain_n, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy_n, -(plain_nv.exp() * plain_nv).sum(-1).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(logp_n, hidden_nd), gradient(plain_n, hidden_nd), rtol=1e-12, atol=1e-12)


def test_the_gradient_of_logprobs_is_that_of_finite_differences() -> None:
    hidden_nd, _, head_vd = drawn(count=4)
    assert torch.autograd.gradcheck(lambda h: token_logprobs(h, head_vd, targets(4), chunk=3)[0], (hidden_nd,))


def test_great_logits_do_not_overflow() -> None:
    hidden_nd, _, head_vd = drawn()
    logp_n, entropy_n = token_logprobs(hidden_nd * 1e3, head_vd, targets(), chunk=5)
    plain_nv = torch.log_softmax(hidden_nd * 1e3 @ head_vd.T, -1)
    torch.testing.assert_close(logp_n, plain_nv.gather(1, targets()[:, None])[:, 0])
    assert torch.isfinite(entropy_n).all()
    assert torch.isfinite(gradient(logp_n, hidden_nd)).all()


def test_bf16_gives_fp32_logprobs_close_to_those_of_fp64() -> None:
    hidden_nd, _, head_vd = drawn()
    low_nd = hidden_nd.detach().bfloat16().requires_grad_()
    logp_n, entropy_n = token_logprobs(low_nd, head_vd.bfloat16(), targets(), chunk=5)
    exact_n, _ = token_logprobs(hidden_nd, head_vd, targets(), chunk=5)
    assert logp_n.dtype == entropy_n.dtype == torch.float32
    torch.testing.assert_close(logp_n.double(), exact_n, rtol=0.02, atol=0.1)
    (found,) = torch.autograd.grad(logp_n.sum(), low_nd)
    (exact,) = torch.autograd.grad(exact_n.sum(), hidden_nd)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.1)


def test_no_tokens_give_no_logprobs() -> None:
    _, _, head_vd = drawn()
    logp_n, entropy_n = token_logprobs(torch.zeros(0, D).double(), head_vd, targets(0), chunk=4)
    assert logp_n.shape == entropy_n.shape == (0,)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_divergences_are_those_of_the_papers(alpha: float, chunk: int) -> None:
    student_nd, teacher_nd, head_vd = drawn()
    found_n = divergence(student_nd, teacher_nd, head_vd, alpha=alpha, top_k=None, chunk=chunk)
    plain_n = reference(student_nd, teacher_nd, head_vd, alpha)
    torch.testing.assert_close(found_n, plain_n, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient(found_n, student_nd), gradient(plain_n, student_nd), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("alpha", "limit"), [(1e-4, 0.0), (1 - 1e-4, 1.0)])
def test_jensen_shannon_ends_in_forward_and_reverse_kl(alpha: float, limit: float) -> None:
    student_nd, teacher_nd, head_vd = drawn()
    near_n = divergence(0.3 * student_nd, 0.3 * teacher_nd, head_vd, alpha=alpha, top_k=None, chunk=5)
    end_n = divergence(0.3 * student_nd, 0.3 * teacher_nd, head_vd, alpha=limit, top_k=None, chunk=5)
    torch.testing.assert_close(near_n / min(alpha, 1 - alpha), end_n, rtol=1e-2, atol=1e-4)


def test_jensen_shannon_is_symmetric_at_one_half_and_bounded_by_log_2() -> None:
    student_nd, teacher_nd, head_vd = drawn()
    there = divergence(student_nd, teacher_nd, head_vd, alpha=0.5, top_k=None, chunk=5)
    back = divergence(teacher_nd, student_nd, head_vd, alpha=0.5, top_k=None, chunk=5)
    torch.testing.assert_close(there, back)
    assert (there.detach() < torch.log(torch.tensor(2.0))).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_bucket_for_the_rest_is_a_lower_bound_that_grows_to_the_whole(alpha: float) -> None:
    student_nd, teacher_nd, head_vd = drawn()
    whole_n = divergence(student_nd, teacher_nd, head_vd, alpha=alpha, top_k=None, chunk=5)
    found = [divergence(student_nd, teacher_nd, head_vd, alpha=alpha, top_k=k, chunk=5) for k in (1, 5, 20, V - 1, V)]
    assert all((part <= whole_n + 1e-12).all() and (part >= 0).all() for part in found)
    means = [float(part.detach().mean()) for part in found]
    assert means == pytest.approx(sorted(means), rel=1e-12)
    torch.testing.assert_close(found[-1], whole_n)
    # With one token left over, the bucket is that token.
    torch.testing.assert_close(found[-2], whole_n)


def test_the_bucket_is_exact_where_the_chosen_tokens_are_nearly_everything() -> None:
    head_vd = torch.tensor([[1.0], [0.0], [0.0]])
    student_nd, teacher_nd = torch.tensor([[14.0]]), torch.tensor([[19.0]])
    found = divergence(student_nd, teacher_nd, head_vd, alpha=1.0, top_k=1, chunk=1)
    exact = divergence(student_nd.double(), teacher_nd.double(), head_vd.double(), alpha=1.0, top_k=1, chunk=1)
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_gradient_of_divergences_is_that_of_finite_differences(alpha: float, top_k: int | None) -> None:
    student_nd, teacher_nd, head_vd = drawn(count=3)

    def computed(hidden_nd: Tensor) -> Tensor:
        return divergence(hidden_nd, teacher_nd, head_vd, alpha=alpha, top_k=top_k, chunk=2)

    assert torch.autograd.gradcheck(computed, (student_nd,))


def test_no_gradient_reaches_the_teacher() -> None:
    student_nd, teacher_nd, head_vd = drawn()
    teacher_nd.requires_grad_()
    divergence(student_nd, teacher_nd, head_vd, alpha=0.5, top_k=None, chunk=5).sum().backward()
    assert teacher_nd.grad is None


class Largest(TorchDispatchMode):
    """Notes the greatest number of elements that any tensor made meanwhile has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, list | tuple) else [found]:
            if isinstance(each, Tensor) and not func.is_view:
                self.elements = max(self.elements, each.numel())
        return found


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("kind", ["logprobs", "divergence"])
def test_no_tensor_is_ever_greater_than_a_chunk_of_the_vocabulary(kind: str, top_k: int | None) -> None:
    count, vocabulary, chunk = 64, 5000, 8
    student_nd, teacher_nd, head_vd = drawn(count=count, vocabulary=vocabulary)
    with Largest() as largest:
        if kind == "logprobs":
            values_n, _ = token_logprobs(student_nd, head_vd, targets(count, vocabulary), chunk=chunk)
        else:
            values_n = divergence(student_nd, teacher_nd, head_vd, alpha=0.5, top_k=top_k, chunk=chunk)
        values_n.sum().backward()
    # The head is there anyway; everything else is chunk × vocabulary at most.
    assert largest.elements <= chunk * vocabulary
