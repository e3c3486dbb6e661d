"""Linear operators: SciPy's interface, for NumPy arrays, tensors and pytrees."""

from hvplib.operators.base import Operator
from hvplib.operators.basic import Diagonal, FunctionOperator, Identity, LowRank, Matrix, SciPyOperator
from hvplib.operators.check import check_operator
from hvplib.operators.curvature import HessianOperator
from hvplib.operators.objective import ScipyObjective, scipy_objective

__all__ = [
    "Diagonal",
    "FunctionOperator",
    "HessianOperator",
    "Identity",
    "LowRank",
    "Matrix",
    "Operator",
    "SciPyOperator",
    "ScipyObjective",
    "check_operator",
    "scipy_objective",
]
