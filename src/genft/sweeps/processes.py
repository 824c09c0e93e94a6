"""Runs in separate processes: peak memory is measured per run, and a crash ends only one run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from genft.errors import GenFTError, TrainingError, first_line
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.spec import RunSpec
from genft.runs.store import Store
from genft.training.callbacks import Inferred, Progress, Watch, ignore
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run_once

Message = Progress | Inferred | Result | GenFTError


class RunProcess:
    """A run that has been started in a new process; :meth:`receive` waits for its next message."""

    def __init__(
        self,
        spec: RunSpec,
        out: Path,
        *,
        threads: int | None = None,
        again: bool = False,
        report_to: Sequence[str] = (),
        gpus: str | None = None,
    ) -> None:
        """
        Args:
            spec: what to run.
            out: the folder of the store.
            threads: the number that torch may use, or None for torch's own choice.
            again: run even if the result exists.
            report_to: trackers.
            gpus: CUDA_VISIBLE_DEVICES of the process, or None to leave it as it is.
        """
        self.spec = spec
        context = _context()
        self.receiver, sender = context.Pipe(duplex=False)
        # a daemon, so that Python ends it on exit even if a second Ctrl-C interrupts end()
        work = (spec, out, threads, again, report_to, gpus, sender)
        self.process = context.Process(target=_work, args=work, daemon=True)
        self.process.start()
        sender.close()  # now only the child holds this end, so recv() below fails when the child dies

    def receive(self) -> Message:
        """The next message: progress, and finally the result or the error that ended the run."""
        try:
            return self.receiver.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = "; the machine may be out of memory" if code == -9 else ""
            return TrainingError(f"the process of the run with {self.spec.method} {how}{hint}")

    def stop(self) -> None:
        """Ask the process to end if it is still running; its checkpoints stay."""
        if self.process.is_alive():
            self.process.terminate()

    def end(self) -> None:
        """Stop the process and wait for it to end."""
        self.stop()
        self.process.join()
        self.receiver.close()


def run_in_process(spec: RunSpec, out: Path, watch: Watch = ignore, *, again: bool = False) -> Result:
    """Like :func:`genft.training.run.run_once`, but in a new process; ``watch`` is called in this one.

    Raises:
        GenFTError: the run's own error, or the process was killed.
    """
    process = RunProcess(spec, out, again=again)
    try:
        while True:
            match process.receive():
                case Result() as result:
                    return result
                case GenFTError() as error:
                    raise error
                case event:
                    watch(event)
    finally:
        process.end()


def run_side_by_side(
    next_run: Callable[[], PreparedRun | None], out: Path, jobs: int, report_to: Sequence[str] = ()
) -> Iterator[tuple[PreparedRun, Message]]:
    """Keep ``jobs`` processes busy with the runs that ``next_run`` returns, and yield their messages as they come.

    The cores are divided among the processes, so that their threads do not compete. ``next_run`` is called whenever a
    process is free, and returns None if there is nothing to start at the moment. The iterator ends when no run is in
    progress and none is left.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    running: dict[Any, tuple[PreparedRun, RunProcess]] = {}
    try:
        while True:
            while len(running) < jobs and (prepared := next_run()) is not None:
                process = RunProcess(prepared.spec, out, threads=threads, report_to=report_to)
                running[process.receiver] = prepared, process
            if not running:
                return
            for ready in wait(list(running)):
                prepared, process = running[ready]
                message = process.receive()
                if isinstance(message, (Result, GenFTError)):
                    del running[ready]
                    process.end()
                yield prepared, message
    finally:
        for _, process in running.values():  # all of them first, because a second Ctrl-C may interrupt the waiting
            process.stop()
        for _, process in running.values():
            process.end()


def _context() -> Any:
    """A fork server if the system has one: it imports the libraries once, and every run is a fork of it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # genft.cli, because a child process imports the main script again
    used = ["genft.cli", "genft.families.registry", "sklearn.model_selection", "scipy.stats"]
    context.set_forkserver_preload([__name__, *used])
    return context


def _work(
    spec: RunSpec,
    out: Path,
    threads: int | None,
    again: bool,
    report_to: Sequence[str],
    gpus: str | None,
    sender: Connection,
) -> None:
    gc.freeze()  # collecting the fork server's imports would copy its memory, most of the time of a tiny run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which then ends this process
    be_quiet()
    if gpus is not None:  # the fork server may have started with other GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    if threads is not None:
        torch.set_num_threads(threads)

    def send(event: Progress | Inferred) -> None:
        try:
            sender.send(event)
        except BrokenPipeError:  # the parent was killed; the run can resume from its last epoch
            raise SystemExit(1) from None

    try:
        store = Store(out).open()
        sender.send(run_once(prepare(spec), store, send, report_to, again=again))
    except GenFTError as e:
        sender.send(e)
    except Exception as e:  # out of memory, for example: the other runs of a matrix continue
        if os.environ.get("GENFT_TRACEBACK"):
            raise
        sender.send(TrainingError(f"{type(e).__name__}: {first_line(e)} (set GENFT_TRACEBACK=1 to see where)"))
