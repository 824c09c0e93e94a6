"""The largest memory a stretch of code needs, as honestly as the platform can say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """``with PeakMemory() as peak: ...`` then ``peak.bytes``, and ``peak.of`` says what was measured.

    On a GPU: the largest memory that torch held there. On a CPU: the largest resident memory of this process in the
    stretch (Linux can reset its record), or since the process began where the system cannot reset it; interpreter,
    libraries and model are part of it, so it is comparable only between processes that do one run each.
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
