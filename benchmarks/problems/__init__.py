"""What the benchmarks run on.

* `models`: functions with their data and models, in float32, for products and their times.
* `classical` (`small`, `large`): textbook functions with known minima, in float64, for minimisers.
* `nist`: regressions with certified parameters and standard deviations.
* `real`, `physics`: statistics and learning on real data, physics-informed networks, clusters of atoms.
"""

from __future__ import annotations

from benchmarks.problems.classical import CLASSICAL
from benchmarks.problems.large import indef
from benchmarks.problems.minimisation import Minimisation
from benchmarks.problems.models import (
    DENSE,
    GPT,
    PROBLEMS,
    Attention,
    Block,
    MeanSquare,
    Problem,
    TokenCrossEntropy,
    conv,
    deep,
    gpt,
    in_double,
    logreg,
    mlp,
    mlp3,
    mlp_problem,
    module_problem,
    rosenbrock,
    tiny,
)
from benchmarks.problems.nist import NIST, Regression
from benchmarks.problems.real import REAL

__all__ = [
    "CLASSICAL",
    "DENSE",
    "GPT",
    "NIST",
    "PROBLEMS",
    "REAL",
    "Attention",
    "Block",
    "MeanSquare",
    "Minimisation",
    "Problem",
    "Regression",
    "TokenCrossEntropy",
    "conv",
    "deep",
    "gpt",
    "in_double",
    "indef",
    "logreg",
    "mlp",
    "mlp3",
    "mlp_problem",
    "module_problem",
    "rosenbrock",
    "tiny",
]
