"""Hessian-vector products and matrix-free linear algebra for PyTorch and SciPy."""

from hvplib.ad import CheckReport, LocalModel, Report, check_hvp, hessian, hvp, local_model
from hvplib.errors import DerivativeError, OutputError

__all__ = [
    "CheckReport",
    "DerivativeError",
    "LocalModel",
    "OutputError",
    "Report",
    "check_hvp",
    "hessian",
    "hvp",
    "local_model",
]
