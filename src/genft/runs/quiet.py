"""What other libraries print during a command, kept out of its output."""

from __future__ import annotations

import warnings
from typing import Any

import transformers

from genft.errors import visible


def be_quiet() -> None:
    """Keep progress bars, load reports and advice from libraries out of our output; show warnings as one plain line."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = _plain_warning


def _plain_warning(message: Any, *_: Any, **__: Any) -> str:
    return "".join(f"warning: {line}\n" for line in map(visible, str(message).splitlines()))
