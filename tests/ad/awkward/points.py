"""Points at which torch's derivative formulas divide by zero, and smooth points that look like them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.ad.awkward.case import F64, Case, Table

table = Table("points")

ZERO = torch.zeros(3, dtype=F64)
W = torch.tensor([0.5, -1.0, 2.0], dtype=F64)


@table.right()
def square_at_zero() -> Case:
    return Case(lambda x: (W * x**2).sum(), (ZERO.clone(),), product=lambda v: (2 * W * v,))


@table.right()
def cube_at_zero() -> Case:
    return Case(lambda x: (x**3).sum(), (ZERO.clone(),), product=lambda v: (0 * v,))


@table.right()
def tensor_exponent_at_zero() -> Case:
    two = torch.full((3,), 2.0, dtype=F64)
    return Case(lambda x: (W * x.pow(two)).sum(), (ZERO.clone(),), product=lambda v: (2 * W * v,))


@table.right()
def product_with_one_zero() -> Case:
    x = torch.tensor([0.0, 2.0, 3.0], dtype=F64)
    hessian = torch.tensor([[0.0, 3.0, 2.0], [3.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=F64)
    return Case(lambda x: x.prod(), (x,), product=lambda v: (hessian @ v,))


@table.right()
def product_with_two_zeros() -> Case:
    x = torch.tensor([0.0, 0.0, 3.0], dtype=F64)
    hessian = torch.tensor([[0.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    return Case(lambda x: x.prod(), (x,), product=lambda v: (hessian @ v,))


@table.right()
def cumprod_with_zeros() -> Case:
    def truth(x):
        return x[0] * W[0] + x[0] * x[1] * W[1] + x[0] * x[1] * x[2] * W[2]

    return Case(lambda x: (x.cumprod(0) * W).sum(), (torch.tensor([0.0, 2.0, 0.0], dtype=F64),), truth)


@table.right()
def logsumexp_with_minus_infinity() -> Case:
    mask = torch.tensor([0.0, -torch.inf, 0.0], dtype=F64)
    x = torch.tensor([0.3, 0.1, -0.2], dtype=F64)
    return Case(lambda x: torch.logsumexp(x + mask, 0), (x,), lambda x: (x[0].exp() + x[2].exp()).log())


@table.right()
def softmax_with_minus_infinity() -> Case:
    mask = torch.tensor([True, False, False])
    x = torch.tensor([0.3, 0.1, -0.2], dtype=F64)
    return Case(
        lambda x: (x.masked_fill(mask, -torch.inf).softmax(0) ** 2).sum(),
        (x,),
        lambda x: (x[1].exp() ** 2 + x[2].exp() ** 2) / (x[1].exp() + x[2].exp()) ** 2,
    )


@table.right()
def determinant_of_a_singular_matrix() -> Case:
    x = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=F64)
    return Case(torch.linalg.det, (x,), lambda x: x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0])


@table.right()
def gelu_and_friends_at_zero() -> Case:
    def func(x):
        return (F.gelu(x) + F.softplus(x) + F.logsigmoid(x) + torch.erf(x) + torch.special.i0(x)).sum()

    # gelu'' = 2 phi(0), softplus'' = 1/4, logsigmoid'' = -1/4, erf'' = 0, i0'' = 1/2
    second = 2 / (2 * torch.pi) ** 0.5 + 0.5
    return Case(func, (ZERO.clone(),), product=lambda v: (second * v,))


@table.right()
def variance_of_equal_numbers() -> Case:
    x = torch.ones(4, dtype=F64)
    return Case(lambda x: x.var(), (x,), product=lambda v: (2 / 3 * (v - v.mean()),))


# Smooth functions whose Hessian is lost inside torch's formula for the norm: no way reaches it.


@table.refused(forward="wrong", reverse="wrong")
def squared_norm_at_zero() -> Case:
    return Case(lambda x: x.norm() ** 2, (ZERO.clone(),), product=lambda v: (2 * v,))


@table.refused(forward="wrong", reverse="wrong")
def squared_vector_norm_at_zero() -> Case:
    return Case(lambda x: torch.linalg.vector_norm(x) ** 2, (ZERO.clone(),), product=lambda v: (2 * v,))


@table.refused(forward="wrong", reverse="wrong")
def squared_norm_of_one_zero_row() -> Case:
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=F64)
    return Case(lambda x: (x.norm(dim=1) ** 2).sum(), (x,), product=lambda v: (2 * v,))


@table.refused(forward="wrong", reverse="wrong")
def squared_norm_of_an_inner_zero() -> Case:
    A = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0]], dtype=F64)
    return Case(lambda x: (A @ x).norm().square(), (ZERO.clone(),), product=lambda v: (2 * A.T @ (A @ v),))


@table.right(forward="wrong", reverse="wrong")
def sinc_at_zero() -> Case:
    return Case(lambda x: torch.sinc(x).sum(), (ZERO.clone(),), product=lambda v: (-(torch.pi**2) / 3 * v,))


@table.right()
def sinc_away_from_zero() -> Case:
    x = torch.tensor([0.2, -0.7, 1.3], dtype=F64)
    return Case(lambda x: torch.sinc(x).sum(), (x,), lambda x: ((torch.pi * x).sin() / (torch.pi * x)).sum())


@table.right(reverse="wrong")
def normalize_within_its_epsilon() -> Case:
    """x / max(‖x‖, ε) is x / ε near 0."""
    x, eps = ZERO.clone(), 0.5
    return Case(
        lambda x: (W * F.normalize(x, dim=0, eps=eps) ** 2).sum(),
        (x,),
        product=lambda v: (2 * W * v / eps**2,),
    )


@table.right(reverse="wrong")
def cosine_similarity_at_zero() -> Case:
    """⟨x, w⟩ / (max(‖x‖, ε) ‖w‖) is linear near 0 (torch's gradient forgets the ε: no differences)."""
    return Case(
        lambda x: F.cosine_similarity(x, W, dim=0),
        (ZERO.clone(),),
        product=lambda v: (0 * v,),
        differences=False,
    )


# Kinks: torch's derivatives are 0 there by convention, and so are the second ones.


@table.right()
def absolute_value_at_zero() -> Case:
    return Case(
        lambda x: (x.abs() + x**2).sum(), (ZERO.clone(),), product=lambda v: (2 * v,), differences=False
    )


@table.right()
def rectifier_at_zero() -> Case:
    return Case(
        lambda x: (x.relu() * W + x**2).sum(), (ZERO.clone(),), product=lambda v: (2 * v,), differences=False
    )


@table.right(reverse="wrong")
def norm_at_zero() -> Case:
    """For one number it is |x|."""
    return Case(lambda x: x.norm(), (ZERO.clone(),), product=lambda v: (0 * v,), differences=False)


# Below no Hessian exists: a number would be an invention.


@table.refused(forward="wrong", reverse="wrong")
def atan2_at_zero() -> Case:
    return Case(lambda x, y: torch.atan2(x, y).sum(), (ZERO.clone(), ZERO.clone()), differences=False)


@table.refused(forward="wrong", reverse="wrong")
def hypot_at_zero() -> Case:
    return Case(lambda x, y: torch.hypot(x, y).sum(), (ZERO.clone(), ZERO.clone()), differences=False)


@table.not_finite()
def square_root_at_zero() -> Case:
    return Case(lambda x: x.sqrt().sum(), (ZERO.clone(),), differences=False)


@table.refused(forward="wrong", reverse="wrong")
def single_eigenvalue_where_two_coincide() -> Case:
    x = torch.eye(3, dtype=F64)
    return Case(lambda x: torch.linalg.eigvalsh(x + x.T)[0], (x,), differences=False)


def _symmetric_square(x):
    s = (x + x.T) / 2
    return (s * s).sum()


def _singular_matrix_product(v):
    return (v + v.T,)


@table.refused(forward="wrong", reverse="wrong")
def eigenvalues_squared_where_two_coincide() -> Case:
    """The Hessian exists (it is that of the squared Frobenius norm), and no formula of torch reaches it."""
    x = torch.eye(3, dtype=F64)
    return Case(
        lambda x: (torch.linalg.eigvalsh((x + x.T) / 2) ** 2).sum(),
        (x,),
        _symmetric_square,
        product=_singular_matrix_product,
    )
