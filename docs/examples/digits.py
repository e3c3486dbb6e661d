"""Second derivatives of real models on real data: handwritten digits.

1. Trains a 64-20-10 network on scikit-learn's digits and computes the ten largest eigenvalues of the Hessian
   of its loss with SciPy's eigsh, from products alone.
2. Fits a regularised logistic regression with SciPy's Newton-CG.
3. Forms the dense Hessian of that regression and holds it against the operator.

Prints what each took, and draws one figure of all three.

    python docs/examples/digits.py [figure.png]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from digits_figure import draw
from hvplib import HessianOperator, hessian, scipy_objective

Batch = tuple[Tensor, Tensor]
Weights = dict[str, Tensor]
Product = Callable[..., np.ndarray]  # takes and returns NumPy vectors

BATCH_SIZE = 256  # the last of the batches has five examples: each counts by its size
EPOCHS = 60
REGULARISATION = 1.0


@dataclass
class Cost:
    """What a step takes, filled in while it runs."""

    products: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.products} Hessian-vector products, {self.seconds:.2f} s"


@contextmanager
def watched(what: str, product: Product) -> Iterator[tuple[Product, Cost]]:
    """`product`, which now counts its calls and moves a progress bar, and what they cost by the end."""
    cost, start = Cost(), time.perf_counter()
    with tqdm(desc=what, unit=" products", leave=False) as bar:

        def counted(*args: np.ndarray) -> np.ndarray:
            cost.products += 1
            bar.update()
            return product(*args)

        yield counted, cost
    cost.seconds = time.perf_counter() - start


def digits() -> Batch:
    """All 1797 images of 8 x 8 pixels, scaled to [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.data / 16.0), torch.tensor(data.target)


# A network and the spectrum of its Hessian.


def train(batches: list[Batch]) -> nn.Module:
    """A network with one hidden layer, in double precision, trained by Adam."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in tqdm(range(EPOCHS), desc="training", unit=" epochs", leave=False):
        for x, y in batches:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@dataclass
class Spectrum:
    """The largest eigenvalues, descending, with ‖Hv − λv‖ of each; and all, ascending, by dense algebra."""

    top: np.ndarray
    residuals: np.ndarray
    cost: Cost
    everything: np.ndarray
    dense_cost: Cost


def spectrum(H: HessianOperator, k: int = 10) -> Spectrum:
    """The k largest eigenvalues of H by products alone, and the whole spectrum to hold them against."""
    with watched("eigsh", H.matvec) as (matvec, cost):
        start = np.random.default_rng(0).standard_normal(H.shape[0])
        values, vectors = eigsh(LinearOperator(H.shape, matvec, dtype=H.dtype), k, which="LA", v0=start)
    values, vectors = values[::-1], vectors[:, ::-1]
    residuals = np.linalg.norm(H @ vectors - vectors * values, axis=0)

    begun = time.perf_counter()
    everything = torch.linalg.eigvalsh(H.to_dense()).numpy()
    return Spectrum(values, residuals, cost, everything, Cost(len(everything), time.perf_counter() - begun))


def print_spectrum(found: Spectrum) -> None:
    """The table of eigenvalues, and how far they are from the dense ones."""
    print("   i   eigenvalue   ‖Hv − λv‖")
    for i, (value, residual) in enumerate(zip(found.top, found.residuals, strict=True), start=1):
        print(f"  {i:2d}   {value:10.6f}   {residual:.1e}")
    error = np.abs(found.top - found.everything[::-1][: len(found.top)]).max()
    print(f"  cost: {found.cost}")
    print(f"  all {len(found.everything)} by dense algebra: {found.dense_cost}; they differ by {error:.0e}")


# Logistic regression: a solve with SciPy, and its dense Hessian.


def logistic_regression(x: Tensor, y: Tensor) -> tuple[Callable[[Weights], Tensor], Weights]:
    """The regularised loss, a function of a dictionary of weights, and where to start."""

    def loss(theta: Weights) -> Tensor:
        penalty = 0.5 * REGULARISATION * theta["weight"].square().sum()
        return cross_entropy(x @ theta["weight"].T + theta["bias"], y, reduction="sum") + penalty

    return loss, {"weight": torch.zeros(10, 64).double(), "bias": torch.zeros(10).double()}


@dataclass
class Descent:
    """The size of the gradient after each step of a minimisation, and the products spent until then."""

    cost: Cost
    weights: Weights = field(default_factory=dict)
    products: list[int] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)


def newton_cg(loss: Callable[[Weights], Tensor], theta: Weights) -> Descent:
    """SciPy's Newton-CG, which knows NumPy vectors only, on a torch function of a dictionary."""
    objective = scipy_objective(loss, theta)
    with watched("Newton-CG", objective.hessp) as (hessp, cost):
        descent = Descent(cost)

        def record(x: np.ndarray) -> None:
            descent.products.append(cost.products)
            descent.gradients.append(float(np.linalg.norm(objective.jac(x))))

        record(objective.x0)
        result = minimize(
            objective.fun,
            objective.x0,
            jac=objective.jac,
            hessp=hessp,
            method="Newton-CG",
            callback=record,
            options={"xtol": 1e-10},
        )
    descent.weights = objective.unravel(result.x)
    return descent


def print_descent(descent: Descent, accuracy: float) -> None:
    """The table of steps."""
    print("  step   products   ‖gradient‖")
    for step, (products, gradient) in enumerate(zip(descent.products, descent.gradients, strict=True)):
        print(f"  {step:4d}   {products:8d}   {gradient:.1e}")
    print(f"  cost: {descent.cost}; {accuracy:.1%} of the digits are told right")


@dataclass
class Dense:
    """A dense Hessian, the same matrix by products with the operator, and what each took."""

    matrix: np.ndarray
    by_operator: np.ndarray
    cost: Cost
    operator_cost: Cost

    @property
    def difference(self) -> float:
        """The largest entry of the difference, relative to the largest of the matrix."""
        return float(np.abs(self.matrix - self.by_operator).max() / np.abs(self.matrix).max())


def dense(loss: Callable[[Weights], Tensor], theta: Weights) -> Dense:
    """∇²loss at theta with respect to theta["weight"], formed in two ways."""
    bias, weight = theta["bias"], theta["weight"]

    def of_weight(weight: Tensor) -> Tensor:
        return loss({"weight": weight, "bias": bias})

    n, start = weight.numel(), time.perf_counter()
    matrix = hessian(of_weight)(weight).reshape(n, n).numpy()
    cost = Cost(n, time.perf_counter() - start)

    H = HessianOperator(of_weight, weight)
    start = time.perf_counter()
    by_operator = H.to_dense().numpy()
    return Dense(matrix, by_operator, cost, Cost(H.num_matvecs, time.perf_counter() - start))


def print_dense(found: Dense) -> None:
    """The cost of both ways, and their difference."""
    n = len(found.matrix)
    print(f"  hvplib.hessian, {n} x {n}: {found.cost.seconds:.2f} s")
    print(f"  the operator on every unit vector: {found.operator_cost}")
    print(f"  largest difference: {found.difference:.0e} of the largest entry")


def main(figure: Path) -> None:
    """Run the three jobs, print their tables and draw the figure."""
    torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it brings
    x, y = digits()
    batches = list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))

    start = time.perf_counter()
    model = train(batches)
    print(f"A 64-20-10 network on {len(x)} digits, trained in {time.perf_counter() - start:.1f} s")
    H = HessianOperator.from_module(model, nn.CrossEntropyLoss(), batches)
    print(f"\n1. The ten largest eigenvalues of its Hessian, {H.shape[0]} x {H.shape[1]}, by scipy's eigsh")
    found = spectrum(H)
    print_spectrum(found)

    loss, theta = logistic_regression(x, y)
    print("\n2. A regularised logistic regression by scipy's Newton-CG")
    descent = newton_cg(loss, theta)
    labels = (x @ descent.weights["weight"].T + descent.weights["bias"]).argmax(1)
    print_descent(descent, accuracy=float((labels == y).double().mean()))

    print("\n3. The dense Hessian of the regression at its solution, beside the operator")
    matrices = dense(loss, descent.weights)
    print_dense(matrices)

    draw(found, descent, matrices, figure)
    print(f"\nFigure: {figure}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/digits.png"))
