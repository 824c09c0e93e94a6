"""A run in a process of its own: its peak memory is its own, and a crash takes nothing else along."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from genft.errors import GenFTError, TrainingError
from genft.results.store import Result, Store
from genft.training.callbacks import Inferred, Progress, Watch, ignore
from genft.training.run import prepare, run
from genft.training.spec import RunSpec


def run_in_process(spec: RunSpec, out: Path, watch: Watch = ignore) -> Result:
    """As :func:`genft.training.run.run`, in a new process; ``watch`` is called in this one.

    Raises:
        GenFTError: what the run raised, or that its process was ended from outside.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(spec, out, sender))
    process.start()
    sender.close()  # now the child's end is the only one, so its death ends recv() below
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, Result):
                return message
            if isinstance(message, GenFTError):
                raise message
            watch(message)
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = "; the machine may be out of memory" if code == -9 else ""
        raise TrainingError(f"the process of the run with {spec.method} {how}{hint}") from None
    finally:
        if process.is_alive():
            process.terminate()
        process.join()


def _work(spec: RunSpec, out: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    be_quiet()

    def send(event: Progress | Inferred) -> None:
        sender.send(event)

    try:
        sender.send(run(prepare(spec), Store(out).open(), send))
    except GenFTError as e:
        sender.send(e)


def be_quiet() -> None:
    """No bars, load reports and advice from libraries amid our own output; warnings as one plain line each."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
