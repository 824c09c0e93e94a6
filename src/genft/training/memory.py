"""The peak memory of a block of code, as exactly as the platform can measure it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """``with PeakMemory() as peak: ...``, then ``peak.bytes``; ``peak.of`` states what was measured.

    On a GPU: the most memory that torch allocated there. On a CPU: the peak resident memory of this process within the
    block, or since the process began if the system cannot reset its record (Linux can). It includes the interpreter,
    the libraries and the model, so only processes that execute one run each can be compared.
    """

    bytes: int = 0
    of: str = ""

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                _CLEAR.write_text("5")
                self.of = "process, while it trained"
            except OSError:
                self.of = "process, since it began"
        return self

    def __exit__(self, *_: Any) -> None:
        if torch.cuda.is_available():
            self.bytes, self.of = torch.cuda.max_memory_allocated(), "GPU, allocated by torch"
        else:
            self.bytes = _peak_resident()


def _peak_resident() -> int:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
