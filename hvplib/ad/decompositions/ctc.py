"""Connectionist temporal classification, rebuilt so that torch differentiates it twice, and correctly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hvplib.ad.decompositions.loss import reduced

__all__ = ["ctc_loss"]

# Stands for log 0 in the recursion: far below any sum of log probabilities, yet finite, so that no
# derivative is NaN.
_IMPOSSIBLE = -1e30


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    r"""$-\log \sum_{\pi \to y} \prod_t p_t(\pi_t)$ over the alignments of ``y`` (``F.ctc_loss``).

    The forward recursion of Graves et al. (2006, doi:10.1145/1143844.1143891) in log space, since torch's
    kernel has no double backward. The kernel's gradient supposes that ``log_probs`` comes from a
    ``log_softmax``; this is the gradient of the value, and the two agree once the ``log_softmax`` is
    differentiated too.

    Args:
        log_probs: ``(T, N, C)`` or ``(T, C)``.
        targets: ``(N, S)``, or all targets one after the other.
        input_lengths: ``(N,)`` or 0-d.
        target_lengths: ``(N,)`` or 0-d.
        blank: The class that stands for no label.
        reduction: ``"none"``, ``"mean"`` (each loss over its target length first) or ``"sum"``.
        zero_infinity: Count impossible alignments as 0.

    Returns:
        0-d, or ``(N,)`` for ``"none"``.
    """
    batched = log_probs.dim() == 3
    device = log_probs.device
    lattice = log_probs if batched else log_probs.unsqueeze(1)
    frames = torch.as_tensor(input_lengths, device=device).reshape(-1)
    lengths = torch.as_tensor(target_lengths, device=device).reshape(-1)
    if _longest(frames) > lattice.shape[0]:
        return torch.ctc_loss(log_probs, targets, frames, lengths, blank)  # raises torch's own error
    labels = _alignment_labels(targets.to(device), lengths, blank)
    states = labels.shape[1]
    emitted = lattice.gather(2, labels.expand(lattice.shape[0], -1, -1)).clamp_min(_IMPOSSIBLE)
    # A label may be reached past the blank before it, unless the label before that is the same.
    skips = F.pad((labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2]), (2, 0))[:, :states]
    start = torch.arange(states, device=device) < 2
    alpha = torch.where(start, emitted[0], _IMPOSSIBLE)
    for t in range(1, lattice.shape[0]):
        one = F.pad(alpha, (1, 0), value=_IMPOSSIBLE)[:, :states]
        two = torch.where(skips, F.pad(alpha, (2, 0), value=_IMPOSSIBLE)[:, :states], _IMPOSSIBLE)
        ahead = torch.logsumexp(torch.stack([alpha, one, two]), 0) + emitted[t]
        alpha = torch.where((t < frames).unsqueeze(1), ahead, alpha)
    final = (2 * lengths).unsqueeze(1)
    complete = alpha.gather(1, final).squeeze(1)
    open_end = torch.where(lengths > 0, alpha.gather(1, (final - 1).clamp_min(0)).squeeze(1), _IMPOSSIBLE)
    likelihood = torch.logaddexp(complete, open_end)
    # Without frames only the empty target can be aligned.
    likelihood = torch.where(
        frames > 0,
        likelihood,
        torch.where(lengths > 0, _IMPOSSIBLE, 0.0).to(likelihood),
    )
    loss = torch.where(likelihood > 0.5 * _IMPOSSIBLE, -likelihood, 0.0 if zero_infinity else torch.inf)
    if reduction == "mean":
        loss = loss / lengths.clamp_min(1)
    return reduced(loss if batched else loss.squeeze(0), reduction)


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if lengths.numel() else 0


def _alignment_labels(targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """``(N, 2 S + 1)``: each target with blanks around and between its labels, blanks beyond its length."""
    batch = lengths.shape[0]
    longest = _longest(lengths)
    positions = torch.arange(longest, device=targets.device)
    if targets.dim() == 1:
        begin = lengths.cumsum(0) - lengths
        places = (begin.unsqueeze(1) + positions).clamp_max(max(targets.shape[0] - 1, 0))
        padded = targets[places] if longest else targets.new_zeros(batch, 0)
    else:
        padded = targets[:, :longest]
    padded = torch.where(positions < lengths.unsqueeze(1), padded, blank).to(torch.int64)
    pairs = torch.stack([torch.full_like(padded, blank), padded], 2).flatten(1)
    return F.pad(pairs, (0, 1), value=blank)
