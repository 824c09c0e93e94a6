"""What the benchmarks share: interleaved timing, bytes kept for the backward pass, the machine, JSON and tables."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=2, help="threads torch computes with")
    p.add_argument("--repeats", type=int, default=7, help="timings of each case, at least 5; their median is reported")
    p.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu measures the processor time of this process, which a busy machine hardly changes with --threads 1",
    )
    p.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine, per row")
    p.add_argument("--out", type=Path, help="the JSON file to write; default benchmarks/results/<name>.json")
    return p


def seconds(
    cases: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    at_least: float = 0.05,
    clock: str = "wall",
    patience: float = 60.0,
) -> dict[str, float]:
    """Median seconds of a call of each case.

    The cases take turns within each repeat, so that a change of the machine's speed affects all of them. A timing
    covers as many calls as take ``at_least`` seconds; the first call of each case is not timed. On the wall clock,
    a timing during which other processes used more than a twentieth of the machine is repeated, for up to
    ``patience`` seconds in all; after that it is kept, with a warning.
    """
    if repeats < 5:
        raise SystemExit("--repeats: a median of fewer than 5 timings says little")
    number = {}
    for name, call in cases.items():
        call()
        number[name] = max(1, round(at_least / _timed(call, 1, clock)[0]))
    taken: dict[str, list[float]] = {name: [] for name in cases}
    gc.collect()
    deadline = time.monotonic() + patience
    disturbed = 0
    for _ in range(repeats):
        for name, call in cases.items():
            timing, quiet = _timed(call, number[name], clock)
            while not quiet and time.monotonic() < deadline:
                if _timed(lambda: time.sleep(0.5), 1)[1]:
                    timing, quiet = _timed(call, number[name], clock)
            taken[name].append(timing)
            disturbed += not quiet
    if disturbed:
        print(f"warning: other processes ran during {disturbed} of {repeats * len(cases)} timings", file=sys.stderr)
    return {name: statistics.median(t) for name, t in taken.items()}


def _timed(call: Callable[[], object], number: int, clock: str = "wall") -> tuple[float, bool]:
    """(seconds per call, over ``number`` calls; whether other processes left the timing undisturbed)."""
    others, wall, start = _others(), time.perf_counter(), CLOCKS[clock]()
    for _ in range(number):
        call()
    taken = CLOCKS[clock]() - start
    # the kernel counts in ticks of 10 ms
    allowed = 0.05 * (time.perf_counter() - wall) * (os.cpu_count() or 1) + 0.02
    return taken / number, clock == "cpu" or _others() - others <= allowed


def _others() -> float:
    """Processor seconds that everything but this process has used; 0 on systems without /proc."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()


def kept_bytes(forward: Callable[[], object], exclude: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps between ``forward`` and its backward pass, beyond the tensors in ``exclude``."""
    known = {t.untyped_storage()._cdata for t in exclude}  # data_ptr() is 0 for every tensor on the meta device
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # kept alive, so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = forward()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def machine() -> dict[str, Any]:
    """The hardware and software that affect a timing."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gemm_gflops": round(_gemm_gflops()),
    }


def _cpu() -> str:
    fields = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _gemm_gflops(n: int = 2048) -> float:
    """Speed of a large square float32 product: the yardstick for what the arithmetic alone would take."""
    a, b = torch.randn(2, n, n)
    clock = "cpu" if torch.get_num_threads() == 1 else "wall"
    return 2e-9 * n**3 / seconds({"gemm": lambda: a @ b}, clock=clock)["gemm"]


def timing(args: argparse.Namespace) -> dict[str, Any]:
    """The timing options of the command line, as arguments of :func:`seconds`."""
    torch.set_num_threads(args.threads)
    return {"repeats": args.repeats, "clock": args.clock, "patience": args.patience}


def report(name: str, rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Print the rows as a Markdown table; write them as JSON with the machine and the command's settings."""
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    payload = {"benchmark": name, "machine": machine(), "settings": settings, "rows": list(rows)}
    path = args.out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(payload, indent=1) + "\n")
    print(", ".join(f"{k} {v}" for k, v in payload["machine"].items()))
    print(table(rows))
    print(f"written to {path}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    columns = list(rows[0])
    cells = [[_cell(row[c]) for c in columns] for row in rows]
    width = [max(len(c), *(len(line[k]) for line in cells)) for k, c in enumerate(columns)]
    rule = ["-" * (w - 1) + ":" for w in width]
    lines = [columns, rule, *cells]
    return "\n".join("| " + " | ".join(c.rjust(w) for c, w in zip(x, width, strict=True)) + " |" for x in lines)


def _cell(v: Any) -> str:
    if not isinstance(v, float):
        return str(v)
    return f"{v:.0f}" if abs(v) >= 100 else f"{v:#.3g}"
