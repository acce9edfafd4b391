"""The only place that touches the vocabulary: log-probabilities and divergences, a chunk of tokens at a time.

    logp_n, entropy_n = token_logprobs(hidden_nd, head_vd, targets_n, chunk=1024)
    divergence_n = divergence(hidden_nd, teacher_nd, head_vd, alpha=0.5, top_k=100, chunk=1024)

Never more than a few times (chunk × vocabulary) numbers exist at once. Each result depends on the hidden state of its
own token alone, so its whole slope, one vector of that size, is computed along with it: the backward pass multiplies
by it, and no logits are computed twice. The vocabulary head itself is frozen.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["divergence", "token_logprobs"]


def token_logprobs(hidden_nd: Tensor, head_vd: Tensor, targets_n: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    """Returns the logprob of each target and the entropy of its distribution, (N,) each, in fp32 and natural log.

    Only the logprobs carry gradients. ``hidden_nd`` are the hidden states that predict the targets.
    """
    wanted = torch.is_grad_enabled() and hidden_nd.requires_grad
    found: tuple[Tensor, Tensor] = _TokenLogprobs.apply(hidden_nd, head_vd, targets_n, chunk, wanted)  # type: ignore[no-untyped-call]
    return found


def divergence(
    hidden_nd: Tensor, teacher_nd: Tensor, head_vd: Tensor, *, alpha: float, top_k: int | None, chunk: int
) -> Tensor:
    """Returns the divergence of the policy π from a teacher q at each position, (N,).

    ``alpha`` 0: KL(q‖π); 1: KL(π‖q); between, with m = αq + (1−α)π: α·KL(q‖m) + (1−α)·KL(π‖m), the generalised
    Jensen–Shannon divergence (Agarwal et al. 2023, arXiv 2306.13649, eq. 1), which in its limits, divided by α or 1−α,
    are these two. With ``top_k`` the distributions are taken over the student's ``top_k`` likeliest tokens and one
    bucket for all others, a lower bound of the whole. No gradient reaches the teacher.
    """
    wanted = torch.is_grad_enabled() and hidden_nd.requires_grad
    found: Tensor = _Divergence.apply(hidden_nd, teacher_nd.detach(), head_vd, (alpha, top_k), chunk, wanted)  # type: ignore[no-untyped-call]
    return found


class _TokenLogprobs(torch.autograd.Function):
    """log p and entropy per token."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden_nd: Tensor, head_vd: Tensor, targets_n: Tensor, chunk: int, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        logp_n = hidden_nd.new_empty(len(targets_n), dtype=torch.promote_types(hidden_nd.dtype, torch.float32))
        entropy_n, slope_nd = torch.empty_like(logp_n), torch.empty_like(hidden_nd) if wanted else None
        for part in _parts(len(targets_n), chunk):
            logits_cv = (hidden_nd[part] @ head_vd.T).to(logp_n.dtype)
            top_c1 = logits_cv.amax(-1, keepdim=True)
            exp_cv = torch.sub(logits_cv, top_c1).exp_()
            total_c = exp_cv.sum(-1)
            norm_c = top_c1[:, 0] + total_c.log()
            logp_n[part] = logits_cv.gather(1, targets_n[part, None])[:, 0] - norm_c
            # A batched product of vectors makes no third (chunk × vocabulary) tensor, as a product and a sum would.
            entropy_n[part] = norm_c - torch.bmm(exp_cv[:, None], logits_cv[:, :, None])[:, 0, 0] / total_c
            del logits_cv
            if slope_nd is not None:
                # ∂ log p(target) / ∂ hidden = head[target] − Σ p·head
                mean_cd = (exp_cv.to(head_vd.dtype) @ head_vd) / total_c[:, None]
                slope_nd[part] = (head_vd[targets_n[part]] - mean_cd).to(slope_nd.dtype)
        ctx.slope_nd = slope_nd  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(entropy_n)
        return logp_n, entropy_n

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_n: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx, grad_n), None, None, None, None


class _Divergence(torch.autograd.Function):
    """Divergence per token."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_nd: Tensor,
        teacher_nd: Tensor,
        head_vd: Tensor,
        form: tuple[float, int | None],
        chunk: int,
        wanted: bool,
    ) -> Tensor:
        found_n = hidden_nd.new_empty(len(hidden_nd), dtype=torch.promote_types(hidden_nd.dtype, torch.float32))
        slope_nd = torch.empty_like(hidden_nd) if wanted else None
        # Two distributions and what their divergence is made of are some four times what log-probabilities take.
        for part in _parts(len(hidden_nd), max(1, chunk // 4)):
            student_cd = hidden_nd[part].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                found_c = _divergence(student_cd, teacher_nd[part], head_vd, *form)
            found_n[part] = found_c.detach()
            if slope_nd is not None:
                (slope_nd[part],) = torch.autograd.grad(found_c, student_cd, torch.ones_like(found_c))
        ctx.slope_nd = slope_nd  # type: ignore[attr-defined]
        return found_n

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_n: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx, grad_n), None, None, None, None, None


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _scaled(ctx: FunctionCtx, grad_n: Tensor) -> Tensor | None:
    """Returns the gradient of the hidden states: each token's slope times what is asked of it."""
    slope_nd: Tensor | None = ctx.slope_nd  # type: ignore[attr-defined]
    return None if slope_nd is None else (slope_nd * grad_n[:, None]).to(slope_nd.dtype)


def _divergence(student_cd: Tensor, teacher_cd: Tensor, head_vd: Tensor, alpha: float, top_k: int | None) -> Tensor:
    student_cv, teacher_cv = _log_softmax(student_cd, head_vd), _log_softmax(teacher_cd, head_vd)
    if top_k is not None and top_k < student_cv.shape[-1]:
        chosen_ck = student_cv.detach().topk(top_k, -1).indices
        student_cv, teacher_cv = _bucketed(student_cv, chosen_ck), _bucketed(teacher_cv, chosen_ck)
    if alpha == 0:
        return _kl(teacher_cv, student_cv)
    if alpha == 1:
        return _kl(student_cv, teacher_cv)
    middle_cv = torch.logaddexp(teacher_cv + math.log(alpha), student_cv + math.log1p(-alpha))
    return alpha * _kl(teacher_cv, middle_cv) + (1 - alpha) * _kl(student_cv, middle_cv)


def _log_softmax(hidden_cd: Tensor, head_vd: Tensor) -> Tensor:
    logits_cv = hidden_cd @ head_vd.T
    return torch.log_softmax(logits_cv.to(torch.promote_types(logits_cv.dtype, torch.float32)), -1)


def _bucketed(logp_cv: Tensor, chosen_ck: Tensor) -> Tensor:
    """Returns the chosen log-probabilities and, last, that of all the others together."""
    # The others are summed themselves: 1 − Σ of the chosen is noise where these are nearly everything.
    rest_c1 = logp_cv.scatter(-1, chosen_ck, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp_cv.gather(-1, chosen_ck), rest_c1], -1)


def _kl(p_cv: Tensor, q_cv: Tensor) -> Tensor:
    return (p_cv.exp() * (p_cv - q_cv)).sum(-1)
