"""The problems that the benchmarks run on, in float32, each with its data captured.

Every problem is a scalar function of a tuple of tensors, ``problem.func(*problem.params)``. Those with a
model call it by `torch.func.functional_call`, and carry it with its loss and batch for libraries that take an
``nn.Module``: the model's parameters are the same tensors in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Problem:
    """A scalar function at a point, and the model it came from where there is one."""

    name: str
    func: Callable[..., Tensor]
    params: tuple[Tensor, ...]
    model: nn.Module | None = None
    loss: nn.Module | None = None
    batch: tuple[Tensor, Tensor] | None = None

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return sum(p.numel() for p in self.params)

    def tangents(self, seed: int = 1, width: int | None = None) -> tuple[Tensor, ...]:
        """Return a random vector of the shape of the parameters, or several along a leading dimension."""
        generator = torch.Generator().manual_seed(seed)
        lead = () if width is None else (width,)
        return tuple(torch.randn((*lead, *p.shape), generator=generator, dtype=p.dtype) for p in self.params)


class MeanSquare(nn.Module):
    """The mean of squared differences, written out: `F.mse_loss` has no second forward derivative."""

    reduction = "mean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return mean (output - target)^2."""
        return (output - target).square().mean()


class TokenCrossEntropy(nn.Module):
    """Cross-entropy over the last axis, averaged over tokens."""

    reduction = "mean"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all tokens of -log softmax(logits)[target]."""
        return nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())


class Attention(nn.Module):
    """Causal self-attention in plain operations, which every derivative supports."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, seq, width) to the same shape."""
        batch, seq, width = x.shape
        split = self.qkv(x).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        future = torch.ones(seq, seq, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.mT) * (width // self.heads) ** -0.5
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, seq, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, seq, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class GPT(nn.Module):
    """A small decoder-only language model."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, seq: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(seq, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, seq) integers to (batch, seq, vocabulary) logits."""
        return self.head(self.norm(self.blocks(self.token(tokens) + self.position)))


def mlp(*sizes: int) -> nn.Sequential:
    """Return Linear layers of the given sizes with tanh between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def mlp_problem(name: str, sizes: tuple[int, ...], batch: int, *, classes: bool) -> Problem:
    """Return an MLP with a cross-entropy (`classes`) or mean-square loss over one batch of random data."""
    torch.manual_seed(0)
    model = mlp(*sizes)
    x = torch.randn(batch, sizes[0])
    y = torch.randint(sizes[-1], (batch,)) if classes else torch.randn(batch, sizes[-1])
    loss: nn.Module = nn.CrossEntropyLoss() if classes else MeanSquare()
    return module_problem(name, model, loss, (x, y))


def module_problem(name: str, model: nn.Module, loss: nn.Module, batch: tuple[Tensor, Tensor]) -> Problem:
    """Return a model's loss on one batch as a function of the model's parameters."""
    x, y = batch
    names = tuple(name for name, _ in model.named_parameters())

    def func(*params: Tensor) -> Tensor:
        return loss(functional_call(model, dict(zip(names, params, strict=True)), (x,)), y)

    return Problem(name, func, tuple(p.detach() for p in model.parameters()), model, loss, batch)


def rosenbrock(n: int = 1000) -> Problem:
    """Return Rosenbrock's function of n variables."""
    torch.manual_seed(0)

    def func(x: Tensor) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return Problem("rosen", func, (torch.randn(n),))


def tiny() -> Problem:
    """Return a 20-32-1 network on 64 examples: a few microseconds of arithmetic, all overhead."""
    return mlp_problem("tiny", (20, 32, 1), 64, classes=False)


def logreg() -> Problem:
    """Return a two-class logistic regression on 5000 examples with 500 features."""
    torch.manual_seed(0)
    batch = torch.randn(5000, 500), torch.randint(2, (5000, 1)).float()
    return module_problem("logreg", nn.Linear(500, 1), nn.BCEWithLogitsLoss(), batch)


def mlp3() -> Problem:
    """Return a 784-512-512-10 classifier on 512 examples."""
    return mlp_problem("mlp3", (784, 512, 512, 10), 512, classes=True)


def deep() -> Problem:
    """Return six layers of 408, one million parameters, on 256 examples."""
    return mlp_problem("deep", (408,) * 7, 256, classes=False)


def conv() -> Problem:
    """Return the textbook convolutional classifier (ReLU, max-pooling) on 64 images of 3 x 32 x 32."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 10),
    )
    batch = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    return module_problem("conv", model, nn.CrossEntropyLoss(), batch)


def gpt() -> Problem:
    """Return a language model of 4 layers of width 128 on 8 sequences of 64 tokens."""
    torch.manual_seed(0)
    model = GPT(vocabulary=256, width=128, layers=4, heads=4, seq=64)
    batch = torch.randint(256, (8, 64)), torch.randint(256, (8, 64))
    return module_problem("gpt", model, TokenCrossEntropy(), batch)


def in_double(problem: Problem) -> Problem:
    """Return the same problem at the same point in float64, sharing nothing with the original."""
    if problem.model is None or problem.loss is None or problem.batch is None:
        return replace(problem, params=tuple(p.double() for p in problem.params))
    x, y = (t.double() if t.is_floating_point() else t for t in problem.batch)
    return module_problem(problem.name, copy.deepcopy(problem.model).double(), problem.loss, (x, y))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "rosen": rosenbrock,
    "tiny": tiny,
    "logreg": logreg,
    "mlp3": mlp3,
    "deep": deep,
    "conv": conv,
    "gpt": gpt,
}

DENSE: dict[str, Callable[[], Problem]] = {
    "two-layer 10-8-1, N=97": lambda: mlp_problem("N=97", (10, 8, 1), 64, classes=False),
    "two-layer 20-45-1, N=991": lambda: mlp_problem("N=991", (20, 45, 1), 64, classes=False),
    "six-layer 16-16-16-14-14-1, N=1007": lambda: mlp_problem(
        "N=1007", (16, 16, 16, 14, 14, 1), 64, classes=False
    ),
    "two-layer 48-100-1, N=5001": lambda: mlp_problem("N=5001", (48, 100, 1), 64, classes=False),
}
