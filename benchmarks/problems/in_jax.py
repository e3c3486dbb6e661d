"""The same functions in JAX, at the same point and on the same data, for JAX as a contender."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.problems.models import Problem

__all__ = ["in_jax"]

Function = Callable[..., Any]


def in_jax(problem: Problem) -> tuple[Function, tuple[Any, ...]]:
    """Return the problem's function of a tuple of JAX arrays, and its parameters as such.

    Raises:
        KeyError: There is no version of this problem.
    """
    import jax.numpy as jnp

    params = tuple(jnp.asarray(p.numpy()) for p in problem.params)
    batch = () if problem.batch is None else tuple(jnp.asarray(t.numpy()) for t in problem.batch)
    return _FUNCTIONS[problem.name](*batch), params


def _rosenbrock() -> Function:
    def func(x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return func


def _tanh_network(x: Any, *params: Any) -> Any:
    import jax.numpy as jnp

    for index in range(0, len(params), 2):
        x = x @ params[index].T + params[index + 1]
        x = jnp.tanh(x) if index + 2 < len(params) else x
    return x


def _mean_square(x: Any, y: Any) -> Function:
    return lambda *params: ((_tanh_network(x, *params) - y) ** 2).mean()


def _cross_entropy(logits: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    logs = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(logs, y[..., None], axis=-1).mean()


def _classifier(x: Any, y: Any) -> Function:
    return lambda *params: _cross_entropy(_tanh_network(x, *params), y)


def _logistic(x: Any, y: Any) -> Function:
    import jax.numpy as jnp

    def func(w: Any, b: Any) -> Any:
        z = x @ w.T + b
        return (jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean()

    return func


def _convolutional(x: Any, y: Any) -> Function:
    import jax
    import jax.numpy as jnp

    def layer(x: Any, w: Any, b: Any) -> Any:
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = jax.nn.relu(x + b[None, :, None, None])
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def func(w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        z = layer(layer(x, w1, b1), w2, b2)
        return _cross_entropy(z.reshape(z.shape[0], -1) @ w3.T + b3, y)

    return func


def _normalised(x: Any, w: Any, b: Any) -> Any:
    import jax.numpy as jnp

    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b


def _language_model(tokens: Any, targets: Any, heads: int = 4) -> Function:
    import jax
    import jax.numpy as jnp

    def attention(x: Any, wi: Any, bi: Any, wo: Any, bo: Any) -> Any:
        batch, seq, width = x.shape
        split = (x @ wi.T + bi).reshape(batch, seq, 3, heads, width // heads)
        q, k, v = (split[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
        future = jnp.triu(jnp.ones((seq, seq), dtype=bool), 1)
        weights = jax.nn.softmax(jnp.where(future, -jnp.inf, scores), axis=-1)
        return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, seq, width) @ wo.T + bo

    def func(*params: Any) -> Any:
        # In the order of the torch module: its own parameters first.
        position, token, rest = params[0], params[1], list(params[2:])
        x = token[tokens] + position
        while len(rest) > 3:
            (n1w, n1b, wi, bi, wo, bo, n2w, n2b, w1, b1, w2, b2), rest = rest[:12], rest[12:]
            x = x + attention(_normalised(x, n1w, n1b), wi, bi, wo, bo)
            x = x + jax.nn.gelu(_normalised(x, n2w, n2b) @ w1.T + b1, approximate=False) @ w2.T + b2
        norm_w, norm_b, head = rest
        return _cross_entropy(_normalised(x, norm_w, norm_b) @ head.T, targets)

    return func


_FUNCTIONS: dict[str, Callable[..., Function]] = {
    "rosen": _rosenbrock,
    "tiny": _mean_square,
    "N=97": _mean_square,
    "N=991": _mean_square,
    "N=1007": _mean_square,
    "N=5001": _mean_square,
    "logreg": _logistic,
    "mlp3": _classifier,
    "deep": _mean_square,
    "conv": _convolutional,
    "gpt": _language_model,
}
