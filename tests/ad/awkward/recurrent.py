"""Recurrent layers: the native kernels of MKL-DNN and cuDNN lack second derivatives."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.ad.awkward.case import F64, Case, Table
from tests.ad.awkward.layers import inputs, of_module, parameters, squares

table = Table("recurrent")


def _first(output: Any) -> Tensor:
    return squares(output[0])


def _run(layer: nn.Module, dtype: torch.dtype = F64, **options: Any) -> Case:
    if dtype == torch.float32:
        options["rtol"] = 1e-4
    return of_module(layer.to(dtype), inputs(4, 2, 3, dtype=dtype), loss=_first, **options)


@table.right()
def lstm() -> Case:
    return _run(nn.LSTM(3, 4))


@table.right(forward="raises")
def lstm_float32() -> Case:
    return _run(nn.LSTM(3, 4), torch.float32)


@table.right()
def gru() -> Case:
    return _run(nn.GRU(3, 4))


@table.right()
def gru_float32() -> Case:
    return _run(nn.GRU(3, 4), torch.float32)


@table.right()
def elman_network_with_relu() -> Case:
    return _run(nn.RNN(3, 4, nonlinearity="relu"), step=1e-5)


@table.right()
def lstm_with_projection_two_ways_two_layers() -> Case:
    return _run(nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2))


@table.right()
def lstm_with_dropout_between_layers() -> Case:
    return _run(nn.LSTM(3, 4, num_layers=2, dropout=0.5))


@table.right(forward="raises")
def lstm_float32_batch_first_two_ways() -> Case:
    return _run(nn.LSTM(3, 4, bidirectional=True, batch_first=True), torch.float32)


@table.right()
def lstm_and_gru_cells() -> Case:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LSTMCell(3, 4), nn.GRUCell(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            state, hidden = None, None
            for step in x:
                state = self.first(step, state)
                hidden = self.second(state[0], hidden)
            assert hidden is not None
            return hidden

    return of_module(Cells().double(), inputs(3, 2, 3))


LENGTHS = torch.tensor([4, 2])


def _packed(layer: nn.Module, dtype: torch.dtype) -> Case:
    layer = layer.to(dtype)
    x = inputs(4, 2, 3, dtype=dtype)
    p = parameters(layer)
    reference = copy.deepcopy(layer).double()

    def func(p: dict[str, Tensor]) -> Tensor:
        output, _state = functional_call(layer, p, (pack_padded_sequence(x, LENGTHS),))
        return squares(pad_packed_sequence(output)[0])

    def truth(p: dict[str, Tensor]) -> Tensor:
        columns = [
            functional_call(reference, p, (x[:n, i : i + 1].double(),))[0] for i, n in enumerate(LENGTHS)
        ]
        padded = [torch.cat([c, c.new_zeros(4 - len(c), 1, c.shape[2])]) for c in columns]
        return squares(torch.cat(padded, 1))

    return Case(func, (p,), truth, rtol=1e-6 if dtype == F64 else 1e-4)


@table.right(forward="raises")
def lstm_on_packed_sequences() -> Case:
    return _packed(nn.LSTM(3, 4), F64)


@table.right(forward="raises")
def lstm_on_packed_sequences_float32() -> Case:
    return _packed(nn.LSTM(3, 4), torch.float32)


@table.right(forward="raises")
def gru_on_packed_sequences() -> Case:
    return _packed(nn.GRU(3, 4), F64)
