"""Small models with their data: a perceptron, a convolutional net, a transformer with tied weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Any


@dataclass(frozen=True)
class Case:
    """A model, all its data as one batch, and the same in uneven batches.

    Attributes:
        forward: From (model, batch) to logits (rows, classes).
        labels: From a batch to labels (rows,), −100 where none counts.
    """

    name: str
    model: nn.Module
    whole: Batch
    uneven: list[Batch]
    forward: Callable[[nn.Module, Batch], Tensor]
    labels: Callable[[Batch], Tensor]

    def __str__(self) -> str:
        return self.name

    def loss(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        y = self.labels(batch)
        return F.cross_entropy(z, y), (y != -100).sum()


def perceptron(dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)).to(dtype)
    x, y = torch.randn(7, 3).to(dtype), torch.randint(3, (7,))
    y[1] = -100
    uneven = [(x[:4], y[:4]), (x[4:6], y[4:6]), (x[6:], y[6:])]
    return Case("perceptron", model, (x, y), uneven, lambda m, b: m(b[0]), lambda b: b[1])


def convolutional(dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).to(dtype)
    model.train()
    model(torch.randn(8, 1, 4, 4).to(dtype))  # running statistics that are not those of the start
    model.eval()
    x, y = torch.randn(6, 1, 4, 4).to(dtype), torch.randint(3, (6,))
    uneven = [(x[:1], y[:1]), (x[1:6], y[1:6])]
    return Case("convolutional", model, (x, y), uneven, lambda m, b: m(b[0]), lambda b: b[1])


class Transformer(nn.Module):
    """One block with causal attention, padding masked, and the weights of both ends tied."""

    def __init__(self, vocabulary: int = 6, width: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.normal = nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(tokens)
        q, k, v = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in self.mix(self.normal(x)).chunk(3, -1))
        length = tokens.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, None, :].bool()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


def transformer(dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(2)
    model = Transformer().to(dtype)
    tokens = torch.randint(6, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    labels = tokens.roll(-1, 1).masked_fill(mask.roll(-1, 1) * mask == 0, -100)
    labels[:, -1] = -100
    whole = {"tokens": tokens, "mask": mask, "labels": labels}
    uneven = [{k: v[:1] for k, v in whole.items()}, {k: v[1:] for k, v in whole.items()}]
    return Case(
        "transformer",
        model,
        whole,
        uneven,
        lambda m, b: m(b["tokens"], b["mask"]).flatten(0, 1),
        lambda b: b["labels"].flatten(),
    )


CASES = [perceptron, convolutional, transformer]
