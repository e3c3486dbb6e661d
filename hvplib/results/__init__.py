"""What solvers return: a status with a remedy, numbers, and the evidence for them."""

from hvplib.results.density import SpectralDensity
from hvplib.results.estimate import Estimate, EstimateProgress
from hvplib.results.solution import Solution
from hvplib.results.status import ConvergenceError, Progress, Status
from hvplib.results.svd import SingularResult

__all__ = [
    "ConvergenceError",
    "Estimate",
    "EstimateProgress",
    "Progress",
    "SingularResult",
    "Solution",
    "SpectralDensity",
    "Status",
]
