"""What holds for every test."""

from __future__ import annotations

import torch

# The tests' tensors are small: a second thread costs more than it brings, and the workers of pytest-xdist
# would fight over the cores.
torch.set_num_threads(1)
