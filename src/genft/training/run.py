"""One run, from a prepared run to a stored result: fit, retrain if needed, score, save, store."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from genft.adapters import saved
from genft.runs.measured import Cost, Provenance, Result
from genft.runs.options import run_file
from genft.runs.store import Store
from genft.training import ranks
from genft.training.callbacks import Watch, ignore
from genft.training.memory import PeakMemory
from genft.training.prepared import PreparedRun
from genft.training.session import Fitted, Scored, Session
from genft.training.trackers import tracker_callbacks


def run_once(
    prepared: PreparedRun, store: Store, watch: Watch = ignore, report_to: Sequence[str] = (), *, again: bool = False
) -> Result:
    """Return the stored result, or call :func:`run`; if another process is executing this run, wait for its result.

    Args:
        again: run even if there is a result.
    """
    store = ranks.SharedStore(store.out)
    with store.claim(prepared.key):
        stored = None if again else prepared.stored(store)
        if stored is not None:
            store.drop_checkpoints(prepared.key)  # left by a process that was killed after storing its result
            return stored
        return run(prepared, store, watch, report_to)


def run(prepared: PreparedRun, store: Store, watch: Watch = ignore, report_to: Sequence[str] = ()) -> Result:
    """Execute the run, or resume it if it was interrupted, and store its result.

    Args:
        prepared: the run.
        store: the store for checkpoints, the adapter and the result.
        watch: called with what was inferred, and with progress.
        report_to: trackers; TensorBoard's files go to ``logs`` in the store.

    Raises:
        GenFTError: the first problem, in one sentence.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    roles, store, watch = prepared.roles, ranks.SharedStore(store.out), ranks.only_first(watch, ignore)
    checkpoints, logs = store.checkpoints(prepared.key), store.logs(prepared.name)
    session = Session(prepared, roles.train, watch)
    watch(session.announced)
    with PeakMemory() as peak:
        fitted = session.fit(roles.select, checkpoints, tracker_callbacks(report_to, logs))
        found: dict[str, Any] = {}
        while fitted.found:  # each round in a folder of its own, so that an interrupted run resumes in the right one
            found |= fitted.found
            checkpoints, logs = checkpoints / "again", logs / "again"
            session.close()
            session = Session(prepared, roles.train, watch, found=found)
            watch(session.announced)
            fitted = fitted.replaced_by(session.fit(roles.select, checkpoints, tracker_callbacks(report_to, logs)))
        reported = session.decide(roles.select)
        if roles.retrain is not None:
            session.close()
            session = Session(prepared, roles.retrain, watch, reported, found)
            trackers = tracker_callbacks(report_to, logs / "retrain")
            fitted = fitted.then(session.fit(None, checkpoints / "retrain", trackers, fitted.history.best_epoch))
        scored = session.score()
    adapter_bytes = _save(session, scored, store)
    cost = Cost(
        seconds=time.perf_counter() - clock,
        seconds_per_step=fitted.seconds_per_step,
        peak_memory_bytes=peak.bytes,
        peak_memory_of=peak.of,
        adapter_bytes=adapter_bytes,
    )
    result = _result(session, fitted, scored, cost, started)
    store.put(result)
    store.drop_checkpoints(prepared.key)
    return ranks.share(result)


def _save(session: Session, scored: Scored, store: Store) -> int:
    """Save the adapter; return the size of its weight file in bytes, or 0 in processes that do not write."""
    if not ranks.is_first():
        return 0
    prepared = session.prepared
    return saved.save(
        store.adapter(prepared.name),
        session.model,
        session.loaded,
        session.reported.task,
        prepared.method.name,
        prepared.protocol.name,
        scored.scores.value,
        run_file(prepared.spec, prepared.method),
    )


def _result(session: Session, fitted: Fitted, scored: Scored, cost: Cost, started: datetime.datetime) -> Result:
    prepared = session.prepared
    spec = prepared.spec
    return Result(
        key=prepared.key,
        label=prepared.name,
        spec=spec.model_dump(mode="json"),
        task=spec.task.name,
        model=spec.model,
        method=spec.method,
        seed=spec.seed,
        protocol=spec.protocol,
        examples=prepared.roles.sizes,
        scores=scored.scores,
        history=fitted.history,
        counts=session.inferred.counts,
        cost=cost,
        provenance=Provenance(
            model_fingerprint=prepared.source.fingerprint,
            data_fingerprint=prepared.data.fingerprint,
            input_fingerprint=prepared.input_fingerprint,
            device=session.inferred.device,
            versions={name: version(name) for name in ("genft", "torch", "transformers", "peft", "accelerate")},
            started=started.isoformat(timespec="seconds"),
        ),
        adapter=Store.adapter_path(prepared.name),
        predictions=scored.predictions,
        targets=scored.targets,
    )
