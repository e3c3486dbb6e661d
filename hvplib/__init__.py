"""Hessian-vector products and matrix-free linear algebra for PyTorch and SciPy.

What a name needs is imported when it is first asked for: `import hvplib` loads neither SciPy nor the solvers.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvplib.ad import (
        CheckReport,
        LocalJacobian,
        LocalModel,
        Report,
        check_hvp,
        hessian,
        hvp,
        local_jacobian,
        local_model,
    )
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
    from hvplib.estimate import Exact, Hutchinson, HutchPP, XDiag, XNysTrace, XTrace
    from hvplib.estimate.density import spectral_density
    from hvplib.estimate.diagonal import DiagonalEstimate, diagonal
    from hvplib.estimate.effective_dimension import effective_dimension
    from hvplib.estimate.function_trace import LanczosQuadrature, logdet, trace_of_function
    from hvplib.estimate.funm import funm_multiply
    from hvplib.estimate.norms import frobenius_norm, schatten_norm
    from hvplib.estimate.quadratic_form import quadratic_form
    from hvplib.estimate.trace import trace
    from hvplib.linear import CG, MINRES, MINRESQLP, solve
    from hvplib.operators import (
        BlockDiagonal,
        Deflated,
        Diagonal,
        DiagonalPreconditioner,
        FisherOperator,
        FunctionOperator,
        GGNOperator,
        HessianOperator,
        Identity,
        JacobianOperator,
        Kronecker,
        LowRank,
        LowRankPlusDiagonal,
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
    from hvplib.results import ConvergenceError, Estimate, Progress, SingularResult, Solution, Status
    from hvplib.space import Space

__all__ = [
    "ARPACK",
    "CG",
    "LOBPCG",
    "MINRES",
    "MINRESQLP",
    "BlockDiagonal",
    "CheckReport",
    "Checkpoint",
    "CheckpointError",
    "ConvergenceError",
    "Deflated",
    "Dense",
    "DerivativeError",
    "Diagonal",
    "DiagonalEstimate",
    "DiagonalPreconditioner",
    "EigenResult",
    "Ending",
    "Estimate",
    "Exact",
    "FisherOperator",
    "FunctionOperator",
    "GGNOperator",
    "HessianOperator",
    "HutchPP",
    "Hutchinson",
    "Identity",
    "JacobianOperator",
    "Kronecker",
    "Lanczos",
    "LanczosQuadrature",
    "LocalJacobian",
    "LocalModel",
    "LowRank",
    "LowRankPlusDiagonal",
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
    "XDiag",
    "XNysTrace",
    "XTrace",
    "check_hvp",
    "check_operator",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "functional_loss",
    "funm_multiply",
    "hessian",
    "hvp",
    "least_squares",
    "local_jacobian",
    "local_model",
    "logdet",
    "minimize",
    "quadratic_form",
    "schatten_norm",
    "scipy_objective",
    "solve",
    "spectral_density",
    "supervised",
    "svds",
    "trace",
    "trace_of_function",
]

# Where each public name is defined: the imports above, once more, for the interpreter.
_HOMES = {
    "hvplib.ad": (
        "CheckReport LocalJacobian LocalModel Report check_hvp hessian hvp local_jacobian local_model"
    ),
    "hvplib.ad.modules": "functional_loss",
    "hvplib.ad.supervised": "supervised",
    "hvplib.eigen": "ARPACK LOBPCG Checkpoint CheckpointError Dense EigenResult Lanczos eigsh",
    "hvplib.eigen.svds": "svds",
    "hvplib.errors": "DerivativeError OutputError",
    "hvplib.estimate": "Exact Hutchinson HutchPP XDiag XNysTrace XTrace",
    "hvplib.estimate.diagonal": "DiagonalEstimate diagonal",
    "hvplib.estimate.effective_dimension": "effective_dimension",
    "hvplib.estimate.norms": "frobenius_norm schatten_norm",
    "hvplib.estimate.trace": "trace",
    "hvplib.estimate.density": "spectral_density",
    "hvplib.estimate.function_trace": "LanczosQuadrature logdet trace_of_function",
    "hvplib.estimate.funm": "funm_multiply",
    "hvplib.estimate.quadratic_form": "quadratic_form",
    "hvplib.linear": "CG MINRES MINRESQLP solve",
    "hvplib.operators": (
        "BlockDiagonal Deflated Diagonal DiagonalPreconditioner FisherOperator FunctionOperator GGNOperator "
        "HessianOperator Identity JacobianOperator Kronecker LowRank LowRankPlusDiagonal "
        "LowRankPreconditioner Matrix NystromPreconditioner Operator Projection SciPyOperator "
        "check_operator scipy_objective"
    ),
    "hvplib.optim": "Ending least_squares minimize",
    "hvplib.results": "ConvergenceError Estimate Progress SingularResult Solution Status",
    "hvplib.space": "Space",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        if isinstance(value, ModuleType):  # of the same name, if something has put it over the function
            value = getattr(value, name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
