"""The weighted sum over mini-batches of what each of them contributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hvplib.ad.memory import free_bytes
from hvplib.ad.report import Report
from hvplib.ad.vectors import all_finite, distance, norm
from hvplib.operators.chunks import in_chunks
from hvplib.operators.data import changed, fingerprint, length
from hvplib.operators.noise import replayed
from hvplib.operators.own_memory import own_block, own_vector
from hvplib.space import Space

__all__ = ["BatchSum", "Budget", "MayKeep", "Term"]

# Whether so many more bytes may be kept from product to product.
MayKeep = Callable[[int], bool]

Budget = int | float | Literal["auto"]

# Of the memory that is free at the start, for the linearisations that are kept.
_KEPT_SHARE = 0.5
# Bytes that are kept without looking how much memory is free.
_WORTH_A_LOOK = 64 * 2**20
# Batches that are read twice at the start to see whether the data come again as they were.
_COMPARED_BATCHES = 2


class Term(Protocol):
    """What one batch contributes, linearised: `hvplib.LocalModel` is one. Its `aux` is the batch's weight."""

    @property
    def value(self) -> Tensor: ...
    @property
    def gradient(self) -> Any: ...
    @property
    def aux(self) -> Any: ...
    @property
    def report(self) -> Report: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def bytes_per_vector(self) -> int: ...
    @property
    def transferable(self) -> bool: ...
    def hvp(self, v: Any) -> Any: ...
    def hvp_block(self, V: Any) -> Any: ...
    def release(self) -> None: ...


class BatchSum:
    """X ↦ Σ_b w_b H_b X over batches b, with Σ_b w_b, Σ_b w_b f_b and Σ_b w_b ∇f_b from one first pass.

    The sums are not divided by the weight: parts of the data (on several machines) add up. A batch of weight
    0 counts for nothing, even where its loss is not a number.

    Args:
        linearize: From (arguments (batch,) or (), index, whether to verify, the value if it is known, whether
            so many more bytes may be kept) to the batch's `Term`.
        data: Re-iterable of batches; None for one term without data.
        space: Space of the parameters.
        memory_budget: Bytes for linearisations that are kept from product to product, or a share (a float up
            to 1) of the memory that is free, "auto" for half of it. The others are computed anew at each
            pass.
        verify: Whether the first term of all is verified, and where no graph can be kept, every one.
        check_deterministic: Whether to read the first batches twice and linearise the first one twice.
        seed: Seed of what the loader draws from the global generators.
        suspect: What to name if the first term comes out otherwise when computed again.
        bar: Wraps an iterable of the batches, given a description and their number (if known).
        with_gradient: Whether to add up the gradients in the first pass, as is right for terms that have
            theirs; it takes a pass of its own otherwise, when it is read.

    Attributes:
        value: Σ_b w_b f_b, 0-d.
        total_weight: Σ_b w_b.
        num_batches: Number of batches.
        num_kept: How many of them stay linearised.
        only: The one term that the sum is, as it is; None where the sum is anything else.
        report: How the first one is multiplied.
        verify_again: Whether what is linearised from now on is to be verified as well.
    """

    def __init__(
        self,
        linearize: Callable[[tuple[Any, ...], int, bool, Tensor | None, MayKeep], Term],
        data: Iterable[Any] | None,
        *,
        space: Space,
        memory_budget: Budget,
        verify: bool,
        check_deterministic: bool,
        seed: int,
        suspect: str,
        bar: Callable[[Iterable[Any], str, int | None], Iterable[Any]],
        with_gradient: bool = True,
    ) -> None:
        self._linearize = linearize
        self._data = data
        self._space = space
        self._seed = seed
        self._suspect = suspect
        self._bar = bar
        self.verify_again = verify
        self._check_next = check_deterministic
        self._terms: list[Term | None] = []
        self._weights: list[float] = []
        self._values: list[Tensor] = []
        self._nbytes: list[int] = []
        self._prints: list[int] = []
        self.report: Report | None = None
        self.value = torch.zeros((), dtype=space.dtype, device=space.device)
        self._gradient = self._zeros() if with_gradient else None
        self._share = _KEPT_SHARE if memory_budget == "auto" else memory_budget
        self._budget = memory_budget if isinstance(memory_budget, int) else None  # None: not looked at yet
        self._kept = 0
        for index, arguments in enumerate(bar(self.batches(), "linearising", length(data))):
            self._append(arguments, index)
        if not self._weights:
            raise ValueError("data holds no batch; pass an iterable that is not empty")
        self.total_weight = math.fsum(self._weights)
        if not self.total_weight > 0:
            raise ValueError("every batch has weight 0: there is nothing to average")
        kept = [
            (term, weight, nbytes)
            for term, weight, nbytes in zip(self._terms, self._weights, self._nbytes, strict=True)
            if term is not None
        ]
        self._all_kept = kept if len(kept) == sum(weight != 0 for weight in self._weights) else None
        self.only = kept[0][0] if self._all_kept and len(kept) == 1 and kept[0][1] == 1.0 else None
        if check_deterministic and data is not None:
            self._compare_passes()

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self._weights)

    @property
    def gradient(self) -> Tensor:
        """Σ_b w_b ∇f_b (n,)."""
        if self._gradient is None:
            total = self._zeros()
            for term, weight, _ in self.live_terms():
                total.add_(self._space.flatten(term.gradient), alpha=weight)
            self._gradient = total
        return self._gradient

    @property
    def num_kept(self) -> int:
        """How many of them stay linearised from product to product."""
        return sum(term is not None for term in self._terms)

    def product(self, X: Tensor) -> Tensor:
        """Σ_b w_b H_b X for X (n, k); the batches are the outer loop, so that a block pays for each once."""
        count = X.shape[1]
        if count == 1:
            return self.vector(X.squeeze(1)).unsqueeze(1)
        if count == 0:
            return X.clone()
        return _weighted_sum((self._block(term, X), weight) for term, weight, _ in self.live_terms())

    def vector(self, x: Tensor) -> Tensor:
        """Σ_b w_b H_b x for x (n,)."""
        tangent = self._space.unflatten(x)
        if self.only is not None:
            return own_vector(self._space, self.only.hvp(tangent), x)
        if not self._space.uniform:
            return _weighted_sum(
                (own_vector(self._space, t.hvp(tangent), x), weight) for t, weight, _ in self.live_terms()
            )
        return self._sum_of_leaves(tangent, x)

    def _sum_of_leaves(self, tangent: Any, x: Tensor) -> Tensor:
        """Leaf by leaf: the vector of each product would be written and read once more."""
        total: Tensor | None = None
        parts: list[Tensor] = []
        leaves = self._space.structure.leaves
        for term, weight, _ in self.live_terms():
            product = term.hvp(tangent)
            if total is None:
                total = own_vector(self._space, product, x)
                total = total if weight == 1.0 else total.mul_(weight)
                parts = leaves(self._space.unflatten(total)) or []
            else:
                torch._foreach_add_(parts, leaves(product) or [], alpha=weight)
        assert total is not None, "a sum has at least one term of positive weight"
        return total

    def _block(self, term: Term, X: Tensor) -> Tensor:
        """H_b X, so many columns at a time as memory allows."""
        space = self._space

        def product(columns: Tensor) -> Tensor:
            return own_block(space, term.hvp_block(space.unflatten_block(columns)), columns)

        return in_chunks(product, X, space.size, term.bytes_per_vector)

    def live_terms(self) -> Iterator[tuple[Term, float, int]]:
        """The terms that count, with weight and size: those kept, and the others computed anew."""
        if self._all_kept is not None:
            yield from self._all_kept
            return
        seen = 0
        for index, arguments in enumerate(self._bar(self.batches(), "product", self.num_batches)):
            self._check_same(arguments, index)
            seen = index + 1
            if self._weights[index] == 0:
                continue
            term = self._terms[index] or self._linearize(
                arguments, index, self.verify_again, self._values[index], _nothing
            )
            yield term, self._weights[index], self._nbytes[index]
            if self._terms[index] is None:
                term.release()
        if seen != self.num_batches:
            raise RuntimeError(changed(self._data, f"{seen} batches instead of {self.num_batches}"))

    def batches(self) -> Iterator[tuple[Any, ...]]:
        """The arguments of each batch, in one pass over the data."""
        if self._data is None:
            return iter([()])
        return ((batch,) for batch in replayed(self._data, self._seed))

    def _append(self, arguments: tuple[Any, ...], index: int) -> None:
        """Take in one batch at the first pass."""
        term = self._linearize(arguments, index, self.verify_again, None, self._may_keep)
        weight = _weight(term.aux)
        self._weights.append(weight)
        self._values.append(term.value)
        self._prints.append(fingerprint(arguments))
        if weight == 0:
            term.release()
            self._terms.append(None)
            self._nbytes.append(0)
            return
        if self._gradient is not None:
            self._gradient.add_(self._space.flatten(term.gradient), alpha=weight)
        self.value.add_(term.value.to(self.value), alpha=weight)
        if self._check_next:
            self._compare_calls(term, arguments, index)
        if self.verify_again:
            report = term.report  # to tell it, the way of multiplying is proven
            self.report = self.report or report
            # What proved right with a kept graph is used for the other batches as it is. A term that keeps
            # nothing found its own way to multiply, and the others must find theirs.
            self.verify_again = not term.transferable
        elif self.report is None:
            self.report = term.report
        nbytes = term.nbytes
        fits = self._fits(nbytes)
        if not fits:
            term.release()
        self._terms.append(term if fits else None)
        self._nbytes.append(nbytes)

    def _fits(self, nbytes: int) -> bool:
        """Keep so many more bytes, if they may be; they are there already."""
        fits = self._may_keep(nbytes, present=nbytes)
        if fits:
            self._kept += nbytes
        return fits

    def _may_keep(self, nbytes: int, present: int = 0) -> bool:
        """Whether so many more bytes may be kept, of which some are there already."""
        total = self._kept + nbytes
        if self._budget is None and total > _WORTH_A_LOOK:
            # What is kept is no longer free; the batch at hand is there, but may have to go.
            self._budget = int(self._share * (free_bytes(self._space.device) + self._kept + present))
        return self._budget is None or total <= self._budget

    def _zeros(self) -> Tensor:
        return torch.zeros(self._space.size, dtype=self._space.dtype, device=self._space.device)

    def _compare_calls(self, term: Term, arguments: tuple[Any, ...], index: int) -> None:
        self._check_next = False
        again = self._linearize(arguments, index, False, None, _nothing)
        first, second = tree_leaves(term.gradient), tree_leaves(again.gradient)
        again.release()
        if not all_finite(first):
            return
        difference = distance(first, second) / max(norm(first), torch.finfo(torch.float64).tiny)
        if not difference <= torch.finfo(_coarsest(self._space)).eps ** 0.75:
            raise RuntimeError(
                f"the loss is not deterministic: {self._suspect} has another gradient when called again with "
                f"the same parameters and batch (relative difference {difference:.1e}). Noise from the "
                "global generators of torch, NumPy and Python is replayed, so it draws from another one, or "
                "keeps state between calls. Make it a function of its arguments, or pass "
                "check_deterministic=False"
            )

    def _compare_passes(self) -> None:
        expected = min(_COMPARED_BATCHES, self.num_batches)
        again = list(islice(self.batches(), expected))
        if len(again) != expected:
            raise RuntimeError(changed(self._data, f"{len(again)} batches instead of {self.num_batches}"))
        for index, arguments in enumerate(again):
            self._check_same(arguments, index)

    def _check_same(self, arguments: tuple[Any, ...], index: int) -> None:
        if index >= self.num_batches:
            raise RuntimeError(changed(self._data, f"more than the {self.num_batches} batches of the first"))
        if fingerprint(arguments) != self._prints[index]:
            raise RuntimeError(changed(self._data, f"another batch number {index}"))


def _nothing(_nbytes: int) -> bool:
    """What is recomputed at each pass keeps nothing."""
    return False


def _weighted_sum(parts: Iterable[tuple[Tensor, float]]) -> Tensor:
    """Σ w x, in the memory of the first x."""
    total: Tensor | None = None
    for part, weight in parts:
        if total is None:
            total = part if weight == 1.0 else part.mul_(weight)
        else:
            total.add_(part, alpha=weight)
    assert total is not None, "a sum has at least one term of positive weight"
    return total


def _weight(aux: Any) -> float:
    weight = float(aux)
    if not 0 <= weight < float("inf"):
        raise ValueError(f"the weight of a batch must be finite and not negative, got {weight}")
    return weight


def _coarsest(space: Space) -> torch.dtype:
    return max(space.dtypes, key=lambda dtype: torch.finfo(dtype).eps)
