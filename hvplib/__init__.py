"""Hessian-vector products and matrix-free linear algebra for PyTorch and SciPy."""

from hvplib.ad import CheckReport, LocalModel, Report, check_hvp, hessian, hvp, local_model
from hvplib.ad.modules import functional_loss
from hvplib.ad.supervised import supervised
from hvplib.eigen import (
    ARPACK,
    LOBPCG,
    Checkpoint,
    CheckpointError,
    Dense,
    EigenResult,
    Lanczos,
    eigsh,
)
from hvplib.eigen.svds import svds
from hvplib.errors import DerivativeError, OutputError
from hvplib.linear import CG, MINRES, MINRESQLP, solve
from hvplib.operators import (
    Deflated,
    Diagonal,
    DiagonalPreconditioner,
    FunctionOperator,
    HessianOperator,
    Identity,
    LowRank,
    LowRankPreconditioner,
    Matrix,
    NystromPreconditioner,
    Operator,
    Projection,
    SciPyOperator,
    check_operator,
    scipy_objective,
)
from hvplib.optim import Ending, least_squares, minimize
from hvplib.results import ConvergenceError, Progress, SingularResult, Solution, Status
from hvplib.space import Space

__all__ = [
    "ARPACK",
    "CG",
    "LOBPCG",
    "MINRES",
    "MINRESQLP",
    "CheckReport",
    "Checkpoint",
    "CheckpointError",
    "ConvergenceError",
    "Deflated",
    "Dense",
    "DerivativeError",
    "Diagonal",
    "DiagonalPreconditioner",
    "EigenResult",
    "Ending",
    "FunctionOperator",
    "HessianOperator",
    "Identity",
    "Lanczos",
    "LocalModel",
    "LowRank",
    "LowRankPreconditioner",
    "Matrix",
    "NystromPreconditioner",
    "Operator",
    "OutputError",
    "Progress",
    "Projection",
    "Report",
    "SciPyOperator",
    "SingularResult",
    "Solution",
    "Space",
    "Status",
    "check_hvp",
    "check_operator",
    "eigsh",
    "functional_loss",
    "hessian",
    "hvp",
    "least_squares",
    "local_model",
    "minimize",
    "scipy_objective",
    "solve",
    "supervised",
    "svds",
]
