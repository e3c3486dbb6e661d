"""Minimisation by second derivatives."""

from hvplib.optim.ending import Ending
from hvplib.optim.methods import TrustExact, TrustKrylov, TrustNCG
from hvplib.optim.minimize import minimize

__all__ = ["Ending", "TrustExact", "TrustKrylov", "TrustNCG", "minimize"]
