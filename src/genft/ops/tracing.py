"""Detects whether a computation is being traced or transformed, so that tensor values cannot be inspected."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether torch.compile, torch.export or a torch.func transform (vmap, grad) is active.

    In that case code must not branch on tensor values or cache anything for the next pass, and our custom autograd
    functions, which choose what to save for the backward pass, cannot be used.
    """
    return torch.compiler.is_compiling() or is_transformed()


def is_transformed() -> bool:
    """Whether a torch.func transform is active."""
    return torch._C._are_functorch_transforms_active()
