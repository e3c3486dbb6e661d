"""What holds for every test."""

from __future__ import annotations

import pytest
import torch

from hvplib.ad.trace import replay

# The tests' tensors are small: a second thread costs more than it brings, and the workers of pytest-xdist
# would fight over the cores.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="let every product be recorded at its first call")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        replay._CALLS = 0
        replay._PER_OPERATION = 0
