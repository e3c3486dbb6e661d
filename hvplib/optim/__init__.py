"""Minimisation by second derivatives."""

from hvplib.optim.ending import Ending
from hvplib.optim.fit_methods import GaussNewton, LevenbergMarquardt
from hvplib.optim.fit_result import LeastSquaresResult
from hvplib.optim.least_squares import least_squares
from hvplib.optim.methods import ARC, LineSearchNewtonCG, NewtonMR, TrustExact, TrustKrylov, TrustNCG
from hvplib.optim.minimize import minimize
from hvplib.optim.torch_optimizer import NewtonCG

__all__ = [
    "ARC",
    "Ending",
    "GaussNewton",
    "LeastSquaresResult",
    "LevenbergMarquardt",
    "LineSearchNewtonCG",
    "NewtonCG",
    "NewtonMR",
    "TrustExact",
    "TrustKrylov",
    "TrustNCG",
    "least_squares",
    "minimize",
]
