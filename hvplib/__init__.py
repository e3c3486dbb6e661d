"""Hessian-vector products and matrix-free linear algebra for PyTorch and SciPy."""

from hvplib.ad import CheckReport, LocalModel, Report, check_hvp, hessian, hvp, local_model
from hvplib.ad.modules import functional_loss
from hvplib.ad.supervised import supervised
from hvplib.errors import DerivativeError, OutputError
from hvplib.operators import (
    Diagonal,
    FunctionOperator,
    HessianOperator,
    Identity,
    LowRank,
    Matrix,
    Operator,
    SciPyOperator,
    check_operator,
    scipy_objective,
)
from hvplib.space import Space

__all__ = [
    "CheckReport",
    "DerivativeError",
    "Diagonal",
    "FunctionOperator",
    "HessianOperator",
    "Identity",
    "LocalModel",
    "LowRank",
    "Matrix",
    "Operator",
    "OutputError",
    "Report",
    "SciPyOperator",
    "Space",
    "check_hvp",
    "check_operator",
    "functional_loss",
    "hessian",
    "hvp",
    "local_model",
    "scipy_objective",
    "supervised",
]
