"""Training a network on digits to a given validation loss and accuracy: `python -m benchmarks.train_digits`.

A 64-64-10 network with tanh, cross-entropy, float32, 1437 images for training and 360 for validation. Each
optimizer runs with several learning rates (NewtonCG with its defaults at several batch sizes), and the one
with the fewest epochs to the target, in the median over the seeds, is shown; all are given the same initial
weights and shuffles. A gradient-equivalent is a gradient or a product with the curvature, of all examples
once; a call for the value alone counts as half of one. Seconds are those of the processor.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.tables import arguments, figure, publish, table
from hvplib.optim.torch_optimizer import NewtonCG

EPOCHS = 60
TARGETS = {"validation loss 0.10": 0.10, "validation loss 0.08": 0.08, "97.5% right": -0.975}

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Entry:
    """A way of training: how the optimizer is made, and the size of its batches."""

    name: str
    make: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    setting: str


@dataclass(frozen=True)
class State:
    """Where a run has got to after an epoch."""

    epoch: int
    loss: float
    accuracy: float
    work: float
    seconds: float

    def reached(self, target: float) -> bool:
        """Whether the loss is as low, or the accuracy as high (a negative target), as asked for."""
        return self.accuracy >= -target if target < 0 else self.loss <= target


def entries(quick: bool) -> list[Entry]:
    found = [
        Entry("**hvplib NewtonCG**, GGN", NewtonCG, size, f"defaults, batch {size}") for size in (256, 512)
    ]
    hessian = functools.partial(NewtonCG, curvature="hessian")
    found.append(Entry("**hvplib NewtonCG**, Hessian", hessian, 256, "batch 256"))
    rates = {
        "Adam": (torch.optim.Adam, (3e-3, 1e-2, 3e-2)),
        "SGD, momentum 0.9": (functools.partial(torch.optim.SGD, momentum=0.9), (0.1, 0.2, 0.3, 0.5)),
    }
    for name, (kind, choices) in rates.items():
        for size in (32, 64, 256):
            for lr in choices[1:] if quick else choices:
                make = functools.partial(kind, lr=lr)
                found.append(Entry(name, make, size, f"lr {lr}, batch {size}"))
    lbfgs = functools.partial(torch.optim.LBFGS, max_iter=1, line_search_fn="strong_wolfe")
    found.append(Entry("L-BFGS, strong Wolfe", lbfgs, 1437, "full batch: an epoch is an iteration"))
    return found


@functools.cache
def digits() -> tuple[Data, Data]:
    """Images in [0, 1] with labels, for training and for validation."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16.0).float(), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, validation = order[:1437], order[1437:]
    return (x[train], y[train]), (x[validation], y[validation])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One step; returns the gradient-equivalents that it took, of this batch."""
    if isinstance(optimizer, NewtonCG):
        before = optimizer.counts
        optimizer.step(lambda: (lambda z: (cross_entropy(z, y), z))(model(x)))
        spent = {name: count - before[name] for name, count in optimizer.counts.items()}
        return 1 + spent["num_matvecs"] + (spent["num_evaluations"] - 1) / 2
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return calls


def trained(entry: Entry, seed: int) -> list[State]:
    """The states after each epoch until all targets are reached, or `EPOCHS` are over."""
    states: list[State] = []
    for state in train(entry, seed):
        states.append(state)
        if all(first(states, target) for target in TARGETS.values()):
            break
    return states


def train(entry: Entry, seed: int) -> Iterator[State]:
    """The state after each epoch; the time for validation does not count."""
    (x, y), validation = digits()
    model = network(seed)
    optimizer = entry.make(model.parameters())
    shuffle = torch.Generator().manual_seed(seed)
    work = seconds = 0.0
    for epoch in range(1, EPOCHS + 1):
        begun = time.process_time()
        for batch in torch.randperm(len(x), generator=shuffle).split(entry.batch_size):
            work += step(model, optimizer, x[batch], y[batch]) * len(batch) / len(x)
        seconds += time.process_time() - begun
        with torch.no_grad():
            z = model(validation[0])
        accuracy = float((z.argmax(1) == validation[1]).float().mean())
        yield State(epoch, float(cross_entropy(z, validation[1])), accuracy, work, seconds)


def first(states: list[State], target: float) -> State | None:
    return next((state for state in states if state.reached(target)), None)


def median_epochs(runs: list[list[State]], target: float) -> float:
    """The median over the seeds of the epochs to the target; infinite where not even half reach it."""
    reached = [first(states, target) for states in runs]
    return statistics.median_high(math.inf if state is None else state.epoch for state in reached)


def cells(runs: list[list[State]], target: float) -> list[str]:
    """Medians over the seeds, ended by how many reached the target."""
    reached = [state for states in runs if (state := first(states, target)) is not None]
    count = f"{len(reached)} of {len(runs)}"
    if not math.isfinite(median_epochs(runs, target)):
        return ["not reached", "", "", count]
    work, seconds = (
        figure(statistics.median(getattr(state, name) for state in reached)) for name in ("work", "seconds")
    )
    return [figure(statistics.median(state.epoch for state in reached)), work, seconds, count]


def main() -> None:
    """Train, choose each optimizer's best setting, and print the tables."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    seeds = range(3 if options.quick else 5)
    runs = {
        (entry.name, entry.setting): [trained(entry, seed) for seed in seeds]
        for entry in entries(options.quick)
    }
    columns = ("setting", "epochs", "gradient-equivalents", "seconds", "seeds that reached it")
    sections = {}
    for heading, target in TARGETS.items():
        rows = {}
        for name in dict.fromkeys(name for name, _ in runs):
            own = {setting: found for (other, setting), found in runs.items() if other == name}
            setting = min(own, key=lambda setting: median_epochs(own[setting], target))
            rows[name] = [setting, *cells(own[setting], target)]
        sections[f"To {heading}"] = table("", columns, rows)
    publish(
        "train-digits",
        "Training a 64-64-10 network on digits, medians over seeds",
        sections,
        packages=("scikit-learn",),
        save=options.save,
    )


if __name__ == "__main__":
    main()
