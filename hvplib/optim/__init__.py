"""Minimisation by second derivatives."""

from hvplib.optim.ending import Ending
from hvplib.optim.methods import TrustExact, TrustKrylov, TrustNCG
from hvplib.optim.minimize import minimize
from hvplib.optim.torch_optimizer import NewtonCG

__all__ = ["Ending", "NewtonCG", "TrustExact", "TrustKrylov", "TrustNCG", "minimize"]
