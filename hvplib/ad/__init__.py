"""Derivatives of functions of pytrees: products with the Hessian, and what proves them right."""

from hvplib.ad.check import CheckReport, check_hvp
from hvplib.ad.hessian import hessian
from hvplib.ad.hvp import hvp
from hvplib.ad.inputs import STRATEGIES
from hvplib.ad.jacobian import LocalJacobian, local_jacobian
from hvplib.ad.local_model import LocalModel, local_model
from hvplib.ad.report import Attempt, Check, Report

__all__ = [
    "STRATEGIES",
    "Attempt",
    "Check",
    "CheckReport",
    "LocalJacobian",
    "LocalModel",
    "Report",
    "check_hvp",
    "hessian",
    "hvp",
    "local_jacobian",
    "local_model",
]
