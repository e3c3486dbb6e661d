"""The Jacobian of a function with many values, over mini-batches, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hvplib.ad.inputs import flatten_primals
from hvplib.ad.jacobian import LocalJacobian, local_jacobian
from hvplib.ad.modules import Selection
from hvplib.ad.report import Report
from hvplib.operators.batches import BatchSum, Budget, MayKeep
from hvplib.operators.chunks import in_chunks
from hvplib.operators.module_parts import model_outputs
from hvplib.operators.noise import seeded
from hvplib.operators.over_data import DataOptions, OverBatches, copied, no_bar, progress_bar
from hvplib.space import Space

__all__ = ["JacobianOperator"]


class JacobianOperator(OverBatches):
    """v ↦ J v with J_ij = ∂r_i/∂x_j, the rows of the mini-batches one after the other; `.T` is u ↦ Jᵀu.

    The graph of r and that of u ↦ Jᵀu are kept for each batch, as far as they fit into `memory_budget`; the
    others are made anew at each pass over the data. The point is copied, and noise from the global generators
    replayed, as by `HessianOperator`.

    Args:
        func: r(x), or r(x, batch) with data; for a tuple x, r(*x) or r(*x, batch). Returns a pytree of
            tensors.
        primals: x, a pytree of floating point tensors or a tuple of them.
        data: As for `HessianOperator`.
        verify: Whether to check the first products, at the cost of about twenty evaluations of the first
            batch.
        check_deterministic, memory_budget, seed, progress: As for `HessianOperator`.

    Attributes:
        value: r(x) as a vector (m,), batch after batch.
        primals, report, num_batches, num_kept: As for `HessianOperator`.
        domain: Space of x.
        codomain: Space of r(x); with data that of a list with one r(x) for each batch.

    Raises:
        DerivativeError: No way of multiplying stands up to the checks.
        RuntimeError, TypeError, ValueError: As for `HessianOperator`.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)
        >>> x = torch.tensor([1.0, -1.0], dtype=torch.float64)
        >>> J = JacobianOperator(lambda x, rows: rows @ x, x, [a[:2], a[2:]])
        >>> J.to_dense()
        tensor([[1., 2.],
                [3., 4.],
                [5., 6.]], dtype=torch.float64)
        >>> from scipy.sparse.linalg import lsqr
        >>> lsqr(J, J.value.numpy())[0].round(6)
        array([ 1., -1.])
    """

    def __init__(
        self,
        func: Callable[..., Any],
        primals: Any,
        data: Iterable[Any] | None = None,
        *,
        verify: bool = True,
        check_deterministic: bool = True,
        memory_budget: Budget = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        DataOptions(data, None, "sum", verify, check_deterministic, memory_budget, seed, progress)
        flatten_primals(primals)
        point = self.primals = tree_map(copied, primals)
        domain = Space.of(point)
        values: dict[int, Any] = {}
        noisy: list[str] = getattr(func, "noisy_modules", list)()

        def linearize(
            arguments: tuple[Any, ...], index: int, verify: bool, _value: Tensor | None, _may_keep: MayKeep
        ) -> _Rows:
            with seeded(seed, index):
                rows = local_jacobian(lambda *at: func(*at, *arguments), point, verify=verify)
            values.setdefault(index, rows.value)
            return _Rows(rows)

        self._sum = BatchSum(
            linearize,
            data,
            space=domain,
            memory_budget=memory_budget,
            verify=verify,
            check_deterministic=check_deterministic,
            seed=seed,
            suspect=f"the function, perhaps through {', '.join(noisy)}," if noisy else "the function itself",
            bar=progress_bar if progress else no_bar,
            with_gradient=False,
        )
        outputs = values[0] if data is None else [values[index] for index in sorted(values)]
        codomain = Space.of(outputs)
        self.value = codomain.flatten(outputs)
        super().__init__(
            (codomain.size, domain.size), domain.dtype, domain.device, domain=domain, codomain=codomain
        )
        if codomain.dtype != domain.dtype:
            raise TypeError(
                f"the values of func have dtype {codomain.dtype} and its argument {domain.dtype}; convert "
                "one of them, so that the vectors on both sides have one dtype"
            )

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        data: Iterable[Any] | None = None,
        *,
        params: Selection = None,
        forward: Callable[..., Any] | None = None,
        **options: Any,
    ) -> JacobianOperator:
        """The Jacobian of a module's outputs by its parameters, as they are now.

        Args:
            model: The module, in the mode (train or eval) that is wanted.
            data: As for `HessianOperator`.
            params: As for `HessianOperator.from_module`.
            forward: As for `GGNOperator.from_module`.
            options: As for `JacobianOperator`.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(3, 2)
            >>> J = JacobianOperator.from_module(model, [(torch.ones(4, 3), None), (torch.ones(1, 3), None)])
            >>> J.shape
            (10, 8)
        """
        func, theta = model_outputs(model, params, forward)
        return cls(func, theta, data, **options)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        parts = [
            in_chunks(rows.jacobian.matmat, X, rows.jacobian.shape[0], nbytes)
            for rows, nbytes in self._live()
        ]
        return torch.cat([part.mT for part in parts], dim=1).mT

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        total, start = X.new_zeros(X.shape[1], self.shape[1]).mT, 0
        for rows, nbytes in self._live():
            stop = start + rows.jacobian.shape[0]
            total += in_chunks(rows.jacobian.rmatmat, X[start:stop], self.shape[1], nbytes)
            start = stop
        return total

    def _live(self) -> Iterator[tuple[_Rows, int]]:
        for rows, _, nbytes in self._sum.live_terms():
            assert isinstance(rows, _Rows)
            yield rows, nbytes


class _Rows:
    """The rows of one batch, as a `Term`: JᵀJ, with the gradient of ⟨u, r⟩ for a fixed u to know it again."""

    aux = 1.0

    def __init__(self, jacobian: LocalJacobian) -> None:
        self.jacobian = jacobian

    @property
    def value(self) -> Tensor:
        return self.jacobian.flat_value.new_zeros(())

    @property
    def gradient(self) -> Any:
        direction = self.jacobian.codomain.random(generator=0)
        return self.jacobian.vjp(self.jacobian.codomain.unflatten(direction))

    @property
    def report(self) -> Report:
        return self.jacobian.report

    @property
    def nbytes(self) -> int:
        return self.jacobian.nbytes

    @property
    def bytes_per_vector(self) -> int:
        return self.nbytes

    @property
    def transferable(self) -> bool:
        return self.jacobian.transferable

    def hvp(self, v: Any) -> Any:
        return self.jacobian.vjp(self.jacobian.jvp(v))

    def hvp_block(self, V: Any) -> Any:
        return self.jacobian.vjp_block(self.jacobian.jvp_block(V))

    def release(self) -> None:
        self.jacobian.release()
