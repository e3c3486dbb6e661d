"""A module and its loss as a function of chosen parameters, with the module left as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Union

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hvplib.ad.supervised import supervised

__all__ = ["ModuleLoss", "Selection", "functional_loss"]

Selection = Union[
    None,
    str,
    "re.Pattern[str]",
    nn.Module,
    Callable[[str, nn.Parameter], bool],
    Iterable[Union[str, "re.Pattern[str]", nn.Module]],
]


def functional_loss(
    model: nn.Module, loss: Callable[..., Any], params: Selection = None, *, copy: bool = True
) -> tuple[ModuleLoss, dict[str, Tensor]]:
    """(θ, batch) ↦ loss(model with parameters θ, batch), and the present θ.

    The model itself is never changed: not its parameters, buffers, `.grad`, hooks or mode. A
    `DistributedDataParallel` or compiled wrapper is taken off first.

    Args:
        model: The module.
        loss: `loss(model, batch)`, or `loss(model)` where there is no data. It is handed the module itself,
            with the parameters put in for the duration of the call, and returns a scalar, or a scalar and the
            weight of the batch. A loss module of torch.nn stands for `supervised(loss)`: batches (x, y).
        params: Which parameters to differentiate: None takes those that require grad; a name, a glob pattern
            ("layers.*.weight") or a compiled regular expression (searched in the name); a layer; a list of
            these; or a predicate (name, parameter) → bool. A selection takes what it says, frozen or not.
            Tied parameters count once, under their first name.
        copy: False for who copies θ himself: it then shares the parameters' memory.

    Returns:
        The function, to be called with (θ, batch), and θ: a dict from names to copies of the parameters.

    Raises:
        ValueError: Nothing matches an entry of `params`, or a parameter is not initialised yet.
        TypeError: A selected parameter is not a floating point tensor, or an entry of `params` is of no kind
            named above.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> func, theta = functional_loss(model, torch.nn.MSELoss())
        >>> x, y = torch.ones(3, 2), torch.zeros(3, 1)
        >>> value, weight = func({"weight": torch.ones(1, 2)}, (x, y))
        >>> float(value), float(weight)
        (4.0, 3.0)
    """
    model = _unwrapped(model)
    selected = select_parameters(model, params)
    func = ModuleLoss(model, supervised(loss) if isinstance(loss, nn.modules.loss._Loss) else loss, selected)
    return func, {name: p.detach().clone() if copy else p.detach() for name, p in selected.items()}


class ModuleLoss:
    """The function made by `functional_loss`.

    It is a function of the parameters and the batch alone: buffers (running statistics) are those of the
    moment it was made, copied anew for each call. The parameters that were not selected are not copied; if
    they, or the mode (train or eval), have changed since, it refuses to be called.
    """

    def __init__(self, model: nn.Module, loss: Callable[..., Any], selected: Mapping[str, Tensor]) -> None:
        self._runner = _Runner(model, loss)
        places = _places(self._runner)
        self._selected = {name: places[id(parameter)] for name, parameter in selected.items()}
        self._buffers = [(b.detach().clone(), places[id(b)]) for b in model.buffers()]
        self._modes, self._versions = self._state()
        self.reduction: str | None = getattr(loss, "reduction", None)

    def __call__(self, params: Mapping[str, Tensor], *batch: Any) -> Any:
        """`loss(model, *batch)` with these parameters in the model."""
        modes, versions = self._state()
        if modes != self._modes:
            raise RuntimeError(
                "the model's train/eval mode has changed since this function was made; make a new one, "
                "or put the mode back"
            )
        if versions != self._versions:
            raise RuntimeError(
                "parameters that were not selected have changed since this function was made; make a new one"
            )
        state = {place: value for name, value in params.items() for place in self._selected[name]}
        for buffer, where in self._buffers:
            state.update(dict.fromkeys(where, buffer.clone()))
        # torch's own way with tied weights leaves a module that stands in two places changed.
        return functional_call(self._runner, state, batch, tie_weights=False)

    def noisy_modules(self) -> list[str]:
        """The modules whose output in their present mode depends on chance or on the rest of the batch."""
        kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
        return [
            f"{name or 'the model'} ({type(module).__name__}, train mode)"
            for name, module in self._runner.model.named_modules()
            if module.training and (isinstance(module, kinds) or "dropout" in type(module).__name__.lower())
        ]

    def _state(self) -> tuple[list[bool], list[int]]:
        model = self._runner.model
        modes = [module.training for module in model.modules()]
        return modes, [p._version for name, p in model.named_parameters() if name not in self._selected]


class _Runner(nn.Module):
    """Calls the loss with the model as a submodule, so that `functional_call` can put parameters into it."""

    loss: Callable[..., Any]

    def __init__(self, model: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        # Not registered as a submodule, should it be one: its parameters are constants.
        object.__setattr__(self, "loss", loss)

    def forward(self, *batch: Any) -> Any:
        return self.loss(self.model, *batch)


def _places(model: nn.Module) -> dict[int, list[str]]:
    """For each tensor (by its id) where it stands in the model: a name for each module and attribute."""
    places: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():  # each module once, wherever it stands
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append(f"{prefix}.{name}" if prefix else name)
    return places


def select_parameters(model: nn.Module, params: Selection = None) -> dict[str, nn.Parameter]:
    """The parameters that `params` names, each once, in the module's order; see `functional_loss`."""
    named = dict(model.named_parameters())
    if params is None:
        chosen = {name for name, p in named.items() if p.requires_grad}
        if not chosen:
            raise ValueError(
                "no parameter of the model requires grad; name those to differentiate with params="
            )
    elif not isinstance(params, nn.Module) and callable(params):
        chosen = {name for name, p in named.items() if params(name, p)}
        if not chosen:
            raise ValueError(f"the predicate params selects no parameter; the model has {_listed(named)}")
    else:
        entries = [params] if isinstance(params, str | re.Pattern | nn.Module) else list(params)
        if not entries:
            raise ValueError("params is an empty list; pass None for all parameters that require grad")
        chosen = set().union(*(_matched(model, entry, named) for entry in entries))
    selected = {name: p for name, p in named.items() if name in chosen}
    for name, parameter in selected.items():
        _check_parameter(name, parameter)
    return selected


def _matched(model: nn.Module, entry: Any, named: Mapping[str, nn.Parameter]) -> set[str]:
    first_name = {id(p): name for name, p in named.items()}
    if isinstance(entry, nn.Module):
        found = {first_name.get(id(p)) for p in entry.parameters()}
        if not found or None in found:
            raise ValueError(f"params: the layer {type(entry).__name__} has no parameters in the model")
        return {name for name in found if name is not None}
    if isinstance(entry, re.Pattern):
        hits = [p for name, p in _every_name(model) if entry.search(name)]
    elif isinstance(entry, str):
        everything = _every_name(model)
        hits = [p for name, p in everything if name == entry] or [
            p for name, p in everything if fnmatchcase(name, entry)
        ]
    else:
        raise TypeError(
            f"params must hold names, patterns or layers, got {type(entry).__name__}; "
            "see hvplib.functional_loss for what it may be"
        )
    if not hits:
        shown = entry.pattern if isinstance(entry, re.Pattern) else entry
        raise ValueError(f"params: no parameter matches {shown!r}; the model has {_listed(named)}")
    return {first_name[id(p)] for p in hits}


def _every_name(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """All names with their parameters; a tied parameter appears under each of its names."""
    return list(model.named_parameters(remove_duplicate=False))


def _listed(named: Mapping[str, nn.Parameter]) -> str:
    names = list(named)
    rest = f", ... ({len(names)} in all)" if len(names) > 40 else ""
    return ", ".join(names[:40]) + rest


def _check_parameter(name: str, parameter: Tensor) -> None:
    if torch.nn.parameter.is_lazy(parameter):
        raise ValueError(f"parameter {name} is not initialised yet; run the model once on a batch first")
    if not parameter.dtype.is_floating_point:
        raise TypeError(
            f"parameter {name} has dtype {parameter.dtype}, without derivative; leave it out with params="
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers for parallel or compiled execution, which compute the same function.

    Derivatives through `DistributedDataParallel` would set off its communication hooks.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model
