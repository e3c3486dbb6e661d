"""Functions of several tensors, for what treats the rows of each by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ad.problems import normal

__all__ = ["FUNCTIONS", "OfParts"]

DATA, TARGET = normal(6, 5, seed=900), normal(6, 2, seed=901)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
SHAPES = ((4, 5), (4,), (3, 4), (3,), (2, 3), (2,))
SIZES = [20, 4, 12, 3, 6, 2]


@dataclass(frozen=True)
class OfParts:
    """A function and the shapes of its arguments."""

    func: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def point(self, seed: int) -> tuple[Tensor, ...]:
        return tuple(normal(*shape, seed=seed + i) for i, shape in enumerate(self.shapes))


def layers(*p: Tensor) -> Tensor:
    x = DATA
    for weight, bias in zip(p[::2], p[1::2], strict=True):
        x = F.linear(x.tanh(), weight, bias)
    return x


def network(*p: Tensor) -> Tensor:
    return (layers(*p) - TARGET).square().mean()


def as_vector(x: Tensor) -> Tensor:
    return network(*(part.view(shape) for part, shape in zip(x.split(SIZES), SHAPES, strict=True)))


FUNCTIONS: dict[str, OfParts] = {
    "network": OfParts(network, SHAPES),
    "network, last layer first": OfParts(lambda *p: network(*p[::-1]), SHAPES[::-1]),
    "network as one vector": OfParts(as_vector, ((sum(SIZES),),)),
    "classifier": OfParts(lambda *p: F.cross_entropy(layers(*p), LABELS), SHAPES),
    "layer norm": OfParts(
        lambda w, g, b: F.layer_norm(F.linear(DATA, w), (4,), g, b).tanh().square().sum(),
        ((4, 5), (4,), (4,)),
    ),
    "residuals and relu": OfParts(
        lambda w, b: (F.relu(F.linear(DATA, w, b)) @ w + DATA).pow(4).sum(), ((5, 5), (5,))
    ),
    "weights on both sides": OfParts(lambda a, b: (a @ b @ a).sin().sum(), ((4, 3), (3, 4))),
    "a matrix entry by entry": OfParts(lambda w: (w**4).sum() + w.sum() ** 3, ((7, 3),)),
    "three dimensions": OfParts(lambda t, u: (t * u).exp().sum() + (t**3).sum(), ((2, 3, 4), (3, 4))),
    "a linear part": OfParts(lambda x, y: (x**3).sum() + 2 * y.sum(), ((3,), (4,))),
    "parts that do not meet": OfParts(lambda x, y: (x**4).sum() + y.sin().sum(), ((5,), (6,))),
    "slices and all of it": OfParts(lambda x: x[:3].prod() * x[2:].sin().sum() + (x**4).sum(), ((7,),)),
    "slices with a gap": OfParts(lambda x: x[:2].prod() * (x[4:] ** 3).sum(), ((7,),)),
    "numbers": OfParts(lambda x, y: (x * y).sin() + x**3, ((), ())),
    "one entry": OfParts(lambda x: (x**3).sum(), ((1,),)),
}
