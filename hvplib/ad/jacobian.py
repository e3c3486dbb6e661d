"""`local_jacobian`: a tensor-valued function at one point, differentiated once and multiplied many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from hvplib.ad.guard import derivative
from hvplib.ad.inputs import flatten_primals, unflatten
from hvplib.ad.jacobian_proof import prove
from hvplib.ad.linearization import DOUBLE_BACKWARD, FORWARD, Linearization
from hvplib.ad.objective import Objective
from hvplib.ad.report import Report
from hvplib.space import Space

__all__ = ["LocalJacobian", "local_jacobian"]

_STRATEGIES = ("auto", DOUBLE_BACKWARD, FORWARD)


class LocalJacobian:
    """The linear model r(x) + J s at a fixed x; made by `local_jacobian`.

    Attributes:
        value: r(x) as func returns it, detached.
        flat_value: r(x) as a vector (m,).
        domain: Space of x and of the vectors v.
        codomain: Space of r and of the vectors u.
        shape: (m, n), the sizes of r and x.
    """

    def __init__(
        self,
        objective: Objective,
        leaves: Sequence[Tensor],
        spec: TreeSpec,
        *,
        strategy: str,
        verify: bool,
        wanted: bool | None = None,
    ) -> None:
        self._objective = objective
        self._points = [x.detach() for x in leaves]
        self._spec = spec
        way = DOUBLE_BACKWARD if strategy == "auto" else strategy
        self._linearization: Linearization | None = Linearization(objective, leaves, way)
        self._verify = verify
        # A custom backward that cannot be differentiated drops out of J v without an error. Where its share
        # in J happens to vanish no check can see that, so the proof does not hold elsewhere.
        self._custom = bool(self._linearization.facts.custom)
        self._wanted = verify if wanted is None else wanted
        self.value: Any = self._linearization.output
        self.flat_value = self._linearization.value
        self.domain = Space.of(unflatten(self._points, spec))
        self.codomain = self._linearization.space
        self.shape = (self.codomain.size, self.domain.size)

    @property
    def report(self) -> Report:
        """How J v is computed, what was given up for it, the remedies, and the checks of the products."""
        return self._ready().report()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept linearisation holds beyond the primals (0 once released)."""
        return 0 if self._linearization is None else self._linearization.nbytes

    @property
    def transferable(self) -> bool:
        """Whether what is proven of products here holds at other points too: not with custom functions."""
        return not self._custom

    def jvp(self, v: Any) -> Any:
        """J v, a pytree like r(x), for a pytree `v` like x.

        The first product also verifies both kinds (unless `verify=False` was given).

        Raises:
            DerivativeError: No way of multiplying stands up to the checks.
            ValueError: `v` is not like x.
        """
        return self.codomain.unflatten(self._pushed(self.domain.flatten(_typed("v", v, self.domain))))

    def vjp(self, u: Any) -> Any:
        """Jᵀ u, a pytree like x, for a pytree `u` like r(x)."""
        pulled = self._ready().vjp(self.codomain.flatten(_typed("u", u, self.codomain)))
        return unflatten(pulled, self._spec)

    def jvp_block(self, V: Any) -> Any:
        """J v_j for k vectors at once: each leaf of `V` has a leading dimension k, and so has the result."""
        return self.codomain.unflatten_block(
            self.matmat(self.domain.flatten_block(_typed("V", V, self.domain)))
        )

    def vjp_block(self, U: Any) -> Any:
        """Jᵀ u_j for k vectors at once: each leaf of `U` has a leading dimension k, and so has the result."""
        return self.domain.unflatten_block(
            self.rmatmat(self.codomain.flatten_block(_typed("U", U, self.codomain)))
        )

    def matmat(self, X: Tensor) -> Tensor:
        """J X (m, k) of a block (n, k) of flat vectors."""
        self._check(X, self.domain, "X")
        if X.shape[1] == 1:
            return self._pushed(X[:, 0]).unsqueeze(1)
        if X.shape[1] == 0:
            return X.new_zeros((0, self.shape[0])).mT
        leaves, _ = tree_flatten(self.domain.unflatten_block(X))
        return self._ready().jvp_block(leaves).mT

    def rmatmat(self, U: Tensor) -> Tensor:
        """Jᵀ U (n, k) of a block (m, k) of flat vectors."""
        self._check(U, self.codomain, "U")
        linearization = self._ready()
        if U.shape[1] == 1:
            pulled = linearization.vjp(U[:, 0])
            return self.domain.flatten(unflatten(pulled, self._spec)).unsqueeze(1)
        if U.shape[1] == 0:
            return U.new_zeros((0, self.shape[1])).mT
        return self.domain.flatten_block(unflatten(linearization.vjp_block(U.mT.contiguous()), self._spec))

    def at(self, primals: Any) -> LocalJacobian:
        """The same function at another point, with the same noise; what was proven is not proven again.

        Unless func uses a custom `torch.autograd.Function`, whose backward may be wrong at one point and not
        at another.

        Args:
            primals: Like the present point: shapes, dtypes and devices.

        Raises:
            ValueError: They are not like it.
        """
        leaves, spec = flatten_primals(primals)
        if spec != self._spec or Space.of(primals).shapes != self.domain.shapes:
            raise ValueError(
                f"primals must be like those of the first point, {self.domain!r}; make a new one with "
                "hvplib.local_jacobian for a function of something else"
            )
        way = DOUBLE_BACKWARD if self._linearization is None else self._linearization.strategy
        again = self._wanted and (self._verify or self._custom)
        return LocalJacobian(self._objective, leaves, spec, strategy=way, verify=again, wanted=self._wanted)

    def release(self) -> None:
        """Free the kept graphs; the value stays."""
        self._linearization = None

    def _pushed(self, vector: Tensor) -> Tensor:
        leaves, _ = tree_flatten(self.domain.unflatten(vector))
        return self._ready().jvp(leaves)

    def _ready(self) -> Linearization:
        if self._linearization is None:
            raise RuntimeError("this local Jacobian was released; make a new one with hvplib.local_jacobian")
        # Where r is not finite nothing can be compared; the products then say so by themselves.
        if self._verify and bool(self.flat_value.isfinite().all()):
            with derivative():
                prove(self._linearization, self._objective, self._points)
            self._verify = False
        return self._linearization

    @staticmethod
    def _check(block: Tensor, space: Space, name: str) -> None:
        if block.dim() != 2 or block.shape[0] != space.size:
            raise ValueError(f"{name} must have shape ({space.size}, k), got {tuple(block.shape)}")
        if block.dtype != space.dtype or block.device != space.device:
            raise ValueError(
                f"{name} must be {space.dtype} on {space.device}, got {block.dtype} on {block.device}; "
                "convert it first (dtypes are never mixed silently)"
            )


def _typed(name: str, tree: Any, space: Space) -> Any:
    for leaf, dtype in zip(tree_leaves(tree), space.dtypes, strict=False):
        if isinstance(leaf, Tensor) and leaf.dtype != dtype:
            raise ValueError(
                f"each tensor of {name} must have the dtype of its like, {dtype}, got {leaf.dtype}; "
                f"convert it with .to({dtype}) (dtypes are never mixed silently)"
            )
    return tree


def local_jacobian(
    func: Callable[..., Any], primals: Any, *, strategy: str = "auto", verify: bool = True
) -> LocalJacobian:
    """r(x), v ↦ J v and u ↦ Jᵀu at one point x, with J_ij = ∂r_i/∂x_j, differentiated once.

    The graph of r is kept, and Jᵀu is a backward pass through it. J v is a backward pass through the graph of
    u ↦ Jᵀu, which is linear: about the cost of a gradient, and blocks of vectors go through it together. If
    that does not prove right, J v is computed by forward mode, afresh for each vector.

    Args:
        func: Function of the primals that returns a pytree of real floating point tensors of any shapes.
        primals: Pytree of real floating point tensors, or a tuple of arguments.
        strategy: How J v is computed: "auto" as above, "double-backward" or "forward".
        verify: Whether the first product is preceded by checks, at the cost of about twenty evaluations:
            ⟨u, J v⟩ = ⟨Jᵀu, v⟩, double backward against forward mode, a second call, and a difference of
            values.

    Returns:
        A `LocalJacobian`. It holds memory for the graphs until it is released or dropped.

    Raises:
        DerivativeError: func cannot be differentiated (from the products: no way stands up to the checks).
        OutputError: func does not return tensors with derivatives.
        TypeError, ValueError: An argument is not as described.

    Source: For J v by two backward passes, J. Townsend (2017), A new trick for calculating Jacobian vector
    products, https://j-towns.github.io/2017/06/12/A-new-trick.html.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> J = local_jacobian(lambda x: torch.stack([x[0] * x[1], x[1] ** 2, x.sum()]), x)
        >>> J.value
        tensor([2., 4., 3.], dtype=torch.float64)
        >>> J.jvp(torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([3., 4., 2.], dtype=torch.float64)
        >>> J.vjp(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
        tensor([2., 1.], dtype=torch.float64)
    """
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(map(repr, _STRATEGIES))}; got {strategy!r}")
    leaves, spec = flatten_primals(primals)
    with derivative():
        objective = Objective(func, spec)
    return LocalJacobian(objective, leaves, spec, strategy=strategy, verify=verify)
