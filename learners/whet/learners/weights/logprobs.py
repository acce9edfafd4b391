"""The only place that touches the vocabulary: log-probabilities and divergences, a chunk of tokens at a time.

    logp_n, entropy_n = token_logprobs(hidden_nd, head_vd, targets_n, chunk=1024)
    divergence_n = divergence(hidden_nd, teacher_nd, head_vd, alpha=0.5, top_k=100, chunk=1024)

Never more than (chunk × vocabulary) logits exist at once, in the forward or the backward pass.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = ["divergence", "token_logprobs"]

TINY = 1e-30


class _TokenLogprobs(torch.autograd.Function):
    """log p and entropy per token; the backward pass computes the logits again."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden_nd: Tensor, head_vd: Tensor, targets_n: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        count = len(targets_n)
        logp_n = hidden_nd.new_empty(count, dtype=torch.float32)
        norm_n, entropy_n = torch.empty_like(logp_n), torch.empty_like(logp_n)
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            logits_cv = (hidden_nd[part] @ head_vd.T).float()
            norm_c = torch.logsumexp(logits_cv, -1)
            logp_n[part] = logits_cv.gather(1, targets_n[part, None])[:, 0] - norm_c
            norm_n[part] = norm_c
            # Σ p·logit by exp in place: the logits are needed once more only for the weighted sum.
            probs_cv = torch.exp(logits_cv - norm_c[:, None])
            entropy_n[part] = norm_c - (probs_cv * logits_cv).sum(-1)
        ctx.save_for_backward(hidden_nd, head_vd, targets_n, norm_n)
        ctx.chunk = chunk  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(entropy_n)
        return logp_n, entropy_n

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_n: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_nd, head_vd, targets_n, norm_n = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad_hidden_nd = torch.empty_like(hidden_nd) if wanted[0] else None
        grad_head_vd = torch.zeros_like(head_vd, dtype=torch.float32) if wanted[1] else None
        for start in range(0, len(targets_n), ctx.chunk):  # type: ignore[attr-defined]
            part = slice(start, start + ctx.chunk)  # type: ignore[attr-defined]
            # ∂ log p(target) / ∂ logits = onehot(target) − p
            slope_cv = torch.exp((hidden_nd[part] @ head_vd.T).float() - norm_n[part, None]).neg_()
            slope_cv.scatter_add_(1, targets_n[part, None], torch.ones_like(slope_cv[:, :1]))
            slope_cv *= grad_n[part, None]
            slope_cv = slope_cv.to(hidden_nd.dtype)
            if grad_hidden_nd is not None:
                grad_hidden_nd[part] = slope_cv @ head_vd
            if grad_head_vd is not None:
                grad_head_vd += (slope_cv.T @ hidden_nd[part]).float()
        return grad_hidden_nd, None if grad_head_vd is None else grad_head_vd.to(head_vd.dtype), None, None


def token_logprobs(hidden_nd: Tensor, head_vd: Tensor, targets_n: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    """Returns the logprob of each target and the entropy of its distribution, (N,) each, in fp32 and natural log.

    Only the logprobs carry gradients. ``hidden_nd`` are the hidden states that predict the targets.
    """
    found: tuple[Tensor, Tensor] = _TokenLogprobs.apply(hidden_nd, head_vd, targets_n, chunk)  # type: ignore[no-untyped-call]
    return found


def divergence(
    hidden_nd: Tensor, teacher_nd: Tensor, head_vd: Tensor, *, alpha: float, top_k: int | None, chunk: int
) -> Tensor:
    """Returns the divergence of the policy π from a teacher q at each position, (N,).

    ``alpha`` 0: KL(q‖π); 1: KL(π‖q); between, with m = (1−α)q + απ: α·KL(π‖m) + (1−α)·KL(q‖m), the generalised
    Jensen–Shannon divergence (Agarwal et al. 2023, arXiv 2306.13649, eq. 1). With ``top_k`` the distributions are taken
    over the student's ``top_k`` likeliest tokens and one bucket for all others, a lower bound of the whole. No gradient
    reaches the teacher.
    """
    parts = []
    for start in range(0, len(hidden_nd), chunk):
        part = slice(start, start + chunk)
        parts.append(
            checkpoint(
                _divergence, hidden_nd[part], teacher_nd[part].detach(), head_vd, alpha, top_k, use_reentrant=False
            )
        )
    return torch.cat(parts)


def _divergence(student_cd: Tensor, teacher_cd: Tensor, head_vd: Tensor, alpha: float, top_k: int | None) -> Tensor:
    student_cv = torch.log_softmax((student_cd @ head_vd.T).float(), -1)
    teacher_cv = torch.log_softmax((teacher_cd @ head_vd.T).float(), -1).detach()
    if top_k is not None and top_k < student_cv.shape[-1]:
        chosen_ck = student_cv.detach().topk(top_k, -1).indices
        student_cv, teacher_cv = _bucketed(student_cv, chosen_ck), _bucketed(teacher_cv, chosen_ck)
    if alpha == 0:
        return _kl(teacher_cv, student_cv)
    if alpha == 1:
        return _kl(student_cv, teacher_cv)
    shares = torch.tensor([1 - alpha, alpha], device=student_cv.device).log()
    middle_cv = torch.logaddexp(teacher_cv + shares[0], student_cv + shares[1])
    return alpha * _kl(student_cv, middle_cv) + (1 - alpha) * _kl(teacher_cv, middle_cv)


def _bucketed(logp_cv: Tensor, chosen_ck: Tensor) -> Tensor:
    """Returns the chosen log-probabilities and, last, that of all the others together."""
    kept_ck = logp_cv.gather(-1, chosen_ck)
    rest_c1 = (1 - kept_ck.exp().sum(-1, keepdim=True)).clamp_min(TINY).log()
    return torch.cat([kept_ck, rest_c1], -1)


def _kl(p_cv: Tensor, q_cv: Tensor) -> Tensor:
    return (p_cv.exp() * (p_cv - q_cv)).sum(-1)
