"""Linear operators: SciPy's interface, for NumPy arrays, tensors and pytrees."""

from hvplib.operators.base import Operator
from hvplib.operators.basic import Diagonal, FunctionOperator, Identity, LowRank, Matrix, SciPyOperator
from hvplib.operators.curvature import HessianOperator

__all__ = [
    "Diagonal",
    "FunctionOperator",
    "HessianOperator",
    "Identity",
    "LowRank",
    "Matrix",
    "Operator",
    "SciPyOperator",
]
