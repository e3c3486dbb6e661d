"""Peak memory of curvature products of a language model with a large vocabulary, beside its gradient."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.memory import measured_in_child, peak_growth
from benchmarks.tables import arguments, figure, publish, table

VOCABULARY = 50_000
SHAPES = {
    "1024 positions, 2 layers": (1, 1024, 2),
    "64 positions, 2 layers": (1, 64, 2),  # the parameters weigh twice what the logits do
    "2 × 1024 positions, 4 layers": (2, 1024, 4),
}
WIDTH = 128
_METHOD = """Each figure is the peak of resident memory beyond the model, in a process of its own, whose
allocator returns what is freed. It holds the vector and the product, and of an operator its copy of the
point. An operator is made, checked (unless it says unverified) and multiplied once, with memory_budget=0.
curvlinops is without its check of determinism, and with attention in the plain way, since its forward mode
has no formula for others."""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.mix(self.first(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """A GPT with tied weights."""

    def __init__(self, vocabulary: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(layers)), nn.LayerNorm(WIDTH))
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.blocks(self.tokens(tokens)), self.tokens.weight)


def problem(vocabulary: int, batch: int, length: int, layers: int) -> tuple[GPT, Tensor, Tensor]:
    torch.manual_seed(0)
    model = GPT(vocabulary, layers)
    x = torch.randint(vocabulary, (batch, length))
    y = x.roll(-1, 1)
    y[:, -1] = -100
    return model, x, y


def loss(z: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    y = batch[1]
    return F.cross_entropy(z.flatten(0, 1), y.flatten()), (y != -100).sum()


def gradient(model: GPT, x: Tensor, y: Tensor) -> Any:
    return torch.autograd.grad(loss(model(x), (x, y))[0], list(model.parameters()))


def ggn(model: GPT, x: Tensor, y: Tensor) -> Any:
    from hvplib import GGNOperator

    G = GGNOperator.from_module(model, loss, [(x, y)], memory_budget=0)
    return G @ torch.ones(G.shape[1])


def unverified_ggn(model: GPT, x: Tensor, y: Tensor) -> Any:
    from hvplib import GGNOperator

    G = GGNOperator.from_module(
        model, loss, [(x, y)], memory_budget=0, verify=False, check_deterministic=False
    )
    return G @ torch.ones(G.shape[1])


def fisher(kind: str) -> Callable[[GPT, Tensor, Tensor], Any]:
    def run(model: GPT, x: Tensor, y: Tensor) -> Any:
        from hvplib import FisherOperator

        F_ = FisherOperator.from_module(
            model,
            nn.CrossEntropyLoss(),
            [(x, y)],
            forward=_rows,
            targets=_flat_targets,
            kind=kind,
            memory_budget=0,
        )
        return F_ @ torch.ones(F_.shape[1])

    return run


def _rows(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).flatten(0, 1)


def _flat_targets(batch: tuple[Tensor, Tensor]) -> Tensor:
    return batch[1].flatten()


def curvlinops(model: GPT, x: Tensor, y: Tensor) -> Any:
    from curvlinops import GGNLinearOperator

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x).flatten(0, 1)

    G = GGNLinearOperator(
        Rows(),
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(x, y.flatten())],
        check_deterministic=False,
        batch_size_fn=lambda x: x.numel(),
        num_data=y.numel(),
    )
    with sdpa_kernel(SDPBackend.MATH):  # its forward mode has no formula for the others
        return G @ torch.ones(G.shape[1])


RUNS: dict[str, Callable[[GPT, Tensor, Tensor], Any]] = {
    "gradient": gradient,
    "GGNOperator": ggn,
    "GGNOperator, unverified": unverified_ggn,
    "curvlinops' GGN": curvlinops,
    "FisherOperator, exact": fisher("exact"),
    "FisherOperator, mc": fisher("mc"),
    "FisherOperator, empirical": fisher("empirical"),
}


def child(name: str, shape: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run = RUNS[name]
    small = problem(100, 1, 8, 1)
    large = problem(VOCABULARY, *SHAPES[shape])
    print(peak_growth(lambda: run(*large), lambda: run(*small)))


def peaks(shape: str, jobs: int) -> dict[str, int | str]:
    """The peak of each run, so many at a time: what other processes do does not show in it."""

    def measured(name: str) -> int | str:
        return measured_in_child(
            "benchmarks.vocabulary", ["--child", name, shape], timeout=3600, returning=True
        )

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(RUNS, pool.map(measured, RUNS), strict=True))


def section(shape: str, jobs: int) -> tuple[str, str]:
    """Heading and table of one shape."""
    batch, length, layers = SHAPES[shape]
    logits = 4 * batch * length * VOCABULARY
    found = peaks(shape, jobs)
    base = found["gradient"]
    assert isinstance(base, int), base
    rows = {
        name: [peak, "", ""]
        if isinstance(peak, str)
        else [f"{peak / 2**20:.0f}", figure(peak / base), figure(peak / (1.3 * base + logits))]
        for name, peak in found.items()
    }
    columns = ("peak beyond the model, MiB", "times the gradient's", "share of 1.3 gradients + logits")
    weights = 4 * sum(p.numel() for p in problem(VOCABULARY, 1, 1, layers)[0].parameters())
    heading = f"{shape}; logits of {logits / 2**20:.0f} MiB, parameters of {weights / 2**20:.0f} MiB"
    return heading, table("", columns, rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    options = parser.parse_args()
    shapes = list(SHAPES)[: 1 if options.quick else None]
    sections = {"How it is measured": _METHOD} | dict(section(shape, options.jobs) for shape in shapes)
    publish(
        "vocabulary",
        "Memory of curvature products with a vocabulary of 50 000",
        sections,
        packages=("hvplib", "curvlinops-for-pytorch"),
        save=options.save,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4])
    else:
        main()
