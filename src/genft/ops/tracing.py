"""Whether a computation is being traced or transformed, so that its values cannot be looked at."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether torch.compile, torch.export or a transform of torch.func (vmap, grad) is at work.

    Then nothing may branch on the values of a tensor or be kept for the next pass, and autograd functions of our own,
    which decide by hand what is kept for the backward pass, cannot take part.
    """
    return torch.compiler.is_compiling() or is_transformed()


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()
