"""Leaves: elements apart in memory, usable by autograd, marked."""

from __future__ import annotations

import torch

from hvplib.ad.leaves import MARK, apart, fresh, ordinary


def test_apart_copies_only_what_is_not_contiguous() -> None:
    plain, shared = torch.arange(6.0).reshape(2, 3), torch.ones(1).expand(4)
    assert apart(plain) is plain
    copy = apart(shared)
    assert copy.is_contiguous() and copy.tolist() == [1, 1, 1, 1]
    copy[0] = 5
    assert copy.tolist() == [5, 1, 1, 1]


def test_ordinary_clones_only_inference_tensors() -> None:
    plain = torch.ones(2)
    with torch.inference_mode():
        inference = torch.full((2,), 3.0)
    assert ordinary(plain) is plain
    clone = ordinary(inference)
    assert not clone.is_inference() and clone.tolist() == [3, 3]


def test_fresh_makes_a_marked_leaf_and_leaves_the_original_alone() -> None:
    x = torch.arange(6.0).reshape(2, 3).mT
    leaf = fresh(x)
    assert leaf.requires_grad and leaf.is_leaf and leaf.is_contiguous()
    assert torch.equal(leaf.detach(), x)
    assert getattr(leaf, MARK) is True
    assert not x.requires_grad and not hasattr(x, MARK)


def test_fresh_cuts_the_graph_and_takes_inference_tensors() -> None:
    parent = torch.ones(2, requires_grad=True)
    assert fresh(parent * 2).grad_fn is None
    with torch.inference_mode():
        inference = torch.full((2,), 3.0)
    leaf = fresh(inference)
    (leaf**2).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [6, 6]
