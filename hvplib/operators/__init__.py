"""Linear operators: SciPy's interface, for NumPy arrays, tensors and pytrees."""

from hvplib.operators.base import Operator
from hvplib.operators.basic import Diagonal, FunctionOperator, Identity, LowRank, Matrix, SciPyOperator
from hvplib.operators.block_diagonal import BlockDiagonal
from hvplib.operators.check import check_operator
from hvplib.operators.curvature import HessianOperator
from hvplib.operators.fisher import FisherOperator
from hvplib.operators.gauss_newton import GGNOperator
from hvplib.operators.jacobian import JacobianOperator
from hvplib.operators.kronecker import Kronecker
from hvplib.operators.low_rank_plus_diagonal import LowRankPlusDiagonal
from hvplib.operators.objective import ScipyObjective, scipy_objective
from hvplib.operators.preconditioners import (
    DiagonalPreconditioner,
    LowRankPreconditioner,
    NystromPreconditioner,
)
from hvplib.operators.projection import Deflated, Projection

__all__ = [
    "BlockDiagonal",
    "Deflated",
    "Diagonal",
    "DiagonalPreconditioner",
    "FisherOperator",
    "FunctionOperator",
    "GGNOperator",
    "HessianOperator",
    "Identity",
    "JacobianOperator",
    "Kronecker",
    "LowRank",
    "LowRankPlusDiagonal",
    "LowRankPreconditioner",
    "Matrix",
    "NystromPreconditioner",
    "Operator",
    "Projection",
    "SciPyOperator",
    "ScipyObjective",
    "check_operator",
    "scipy_objective",
]
