"""Primals of every layout and kind; what cannot be differentiated at all is in test_awkward_inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.ad.awkward.case import F64, Case, Table

table = Table("inputs")


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.sum() ** 3


def _spread(x: Tensor) -> Tensor:
    return x.sum() ** 3 + (x**4).sum()


def _product(x: Tensor):  # closed form of the Hessian of `quartic`
    return lambda v: (12 * x.detach() ** 2 * v + 6 * x.detach().sum() * v.sum(),)


def _at(x: Tensor) -> Case:
    return Case(quartic, (x,), product=_product(x))


BASE = torch.tensor([0.5, -0.3, 0.8, 1.1, -0.6, 0.2], dtype=F64)


@table.right(forward="raises")
def expanded() -> Case:
    """Stride 0: forward mode cannot write the tangent."""
    return _at(torch.tensor([[0.5], [0.7]], dtype=F64).expand(2, 3))


@table.right(forward="wrong")
def overlapping() -> Case:
    """as_strided windows share elements; forward mode adds tangents up without a word."""
    return _at(BASE.as_strided((3, 2), (1, 1)))


@table.right()
def transposed() -> Case:
    return _at(BASE.reshape(2, 3).T)


@table.right()
def strided() -> Case:
    return _at(BASE[::2])


@table.right()
def negative_view() -> Case:
    return _at(torch.view_as_complex(BASE.reshape(3, 2)).conj().imag)


@table.right()
def zero_dimensional() -> Case:
    return _at(torch.tensor(0.7, dtype=F64))


@table.right()
def empty() -> Case:
    x = torch.zeros(0, dtype=F64)
    return Case(
        lambda x, y: quartic(x) + (y**3).sum(), (x, BASE.clone()), product=lambda v, w: (v, 6 * BASE * w)
    )


@table.right()
def only_empty() -> Case:
    return Case(quartic, (torch.zeros(0, dtype=F64),), product=lambda v: (v,))


@table.right()
def parameter() -> Case:
    return _at(nn.Parameter(BASE.clone()))


@table.right()
def requires_grad() -> Case:
    return _at(BASE.clone().requires_grad_())


@table.right()
def not_a_leaf() -> Case:
    return _at(BASE.clone().requires_grad_() * 2)


class Tagged(Tensor):
    """A trivial subclass."""


@table.right()
def subclass() -> Case:
    return _at(BASE.clone().as_subclass(Tagged))


@table.right()
def inference_tensor() -> Case:
    with torch.inference_mode():
        x = BASE.clone()
    return _at(x)


@table.right(reverse="raises")
def inference_tensor_as_data() -> Case:
    with torch.inference_mode():
        data = BASE * 1
    plain = BASE * 1
    return Case(
        lambda x: ((x * data).sin() * x).sum(), (BASE.clone(),), lambda x: ((x * plain).sin() * x).sum()
    )


@table.right(reverse="raises", forward="raises")
def inference_mode_inside() -> Case:
    """Constants made under inference_mode by the function itself."""

    def func(x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = torch.linspace(0, 1, 6, dtype=F64) + 1
        return ((scale * x).sin() * x).sum()

    return Case(
        func, (BASE.clone(),), lambda x: (((torch.linspace(0, 1, 6, dtype=F64) + 1) * x).sin() * x).sum()
    )


@table.right()
def the_same_tensor_twice() -> Case:
    x = BASE.clone()
    return Case(
        lambda a, b: (a**2 * b**3).sum(),
        (x, x),
        lambda a, b: (a * a * b * b * b).sum(),
    )


@table.right()
def captured_and_given() -> Case:
    """The function also closes over the primal: that use is a constant."""
    x = BASE.clone()
    return Case(lambda y: (x**2 * y**3).sum(), (x,), product=lambda v: (6 * BASE**3 * v,))


@table.right()
def captured_tensor_that_requires_grad() -> Case:
    other = BASE.clone().requires_grad_()
    return Case(lambda y: (other * y**3).sum(), (BASE.clone(),), product=lambda v: (6 * BASE**2 * v,))


@table.right()
def views_of_one_buffer() -> Case:
    buffer = BASE.clone()
    return Case(
        lambda a, b: (a.sin() * b * b).sum(), (buffer[:3], buffer[3:]), lambda a, b: (a.sin() * b**2).sum()
    )


@table.right()
def nested_pytree() -> Case:
    tree = {"a": [BASE[:2].clone(), (BASE[2:4].clone(),)], "b": BASE[4:].clone()}
    return Case(
        lambda t: (t["a"][0] ** 2 * t["a"][1][0]).sum() * t["b"].prod(),
        (tree,),
        lambda t: (t["a"][0].square() * t["a"][1][0]).sum() * t["b"][0] * t["b"][1],
    )


@table.right(forward="raises")
def result_of_shape_one() -> Case:
    return Case(lambda x: quartic(x).reshape(1), (BASE.clone(),), product=_product(BASE), differences=False)


@table.right()
def float32_and_float64_together() -> Case:
    x, y = BASE.float(), BASE.clone()
    return Case(
        lambda x, y: (x.double() ** 2 * y**3).sum(), (x, y), lambda x, y: (x * x * y**3).sum(), rtol=1e-6
    )


@table.right()
def result_in_float32_of_float64() -> Case:
    return Case(
        lambda x: quartic(x).float(), (BASE.clone(),), product=_product(BASE), rtol=1e-6, differences=False
    )


@table.right()
def mixed_with_complex_inside() -> Case:
    return Case(lambda x: torch.fft.rfft(x.sin()).abs().square().sum(), (BASE.clone(),), _parseval)


def _parseval(x: Tensor) -> Tensor:
    s = x.sin()
    return (6 * s.square().sum() + s.sum() ** 2 + (s * torch.tensor([1, -1] * 3)).sum() ** 2) / 2
