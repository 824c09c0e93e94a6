"""Hyper-parameter search: Optuna's TPE over the spaces of a preset, with pruning by early validation scores.

A trial is a run that reports on the selection split; the reporting (test) split is read once, by the run of the winner.
Optuna's storage keeps everything, so a search can be interrupted, resumed, and shared by any number of processes that
are started with the same command.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genft.api.settings import check_settings, full_settings
from genft.errors import ConfigError, GenFTError, not_one_of
from genft.files import name_part, write_atomically
from genft.presets import Space
from genft.records import check
from genft.runs.measured import Result
from genft.runs.request import USER, Request
from genft.runs.settings import Training
from genft.runs.spec import RunSpec
from genft.runs.store import Store
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

#: Trials before the sampler and the pruner begin to use earlier scores.
WARM_UP = 5


@dataclass(frozen=True)
class Search:
    """An open search.

    Attributes:
        prepared: the winner's run, still with the initial values of the searched parameters.
        spaces: the searched parameters by name: settings of the method and fields of training.
        study: Optuna's study, with all trials so far.
    """

    prepared: PreparedRun
    spaces: Mapping[str, Space]
    study: Study

    @property
    def finished(self) -> list[FrozenTrial]:
        return [t for t in self.study.trials if t.state.is_finished() and "interrupted" not in t.user_attrs]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """Complete trials, best first."""
        complete = [t for t in self.study.trials if t.state.name == "COMPLETE"]
        sign = -1 if self.prepared.family.selects.higher_is_better else 1
        return sorted(complete, key=lambda t: sign * (t.value or 0.0))

    def run(self, trials: int, seconds: float | None, watch: Callable[[FrozenTrial], None]) -> None:
        """Run trials until ``trials`` are finished in total; none starts after ``seconds``."""
        began = time.monotonic()
        while len(self.finished) < trials and (seconds is None or time.monotonic() - began < seconds):
            watch(self._one())

    def _one(self) -> FrozenTrial:
        """Ask Optuna for a trial, run it, and report the outcome."""
        import optuna

        trial = self.study.ask()
        state, value = optuna.trial.TrialState.FAIL, None
        try:
            value = self._score(trial)
            state = optuna.trial.TrialState.COMPLETE
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except GenFTError as e:  # settings that cannot be combined, or a NaN loss
            trial.set_user_attr("error", str(e).splitlines()[0])
        except BaseException:
            trial.set_user_attr("interrupted", True)
            self.study.enqueue_trial(trial.params)  # for whoever resumes the search
            raise
        finally:
            finished = self.study.tell(trial, value, state=state, skip_if_finished=True)
        return finished

    def _score(self, trial: Trial) -> float:
        """The metric of the best epoch on the selection split.

        Raises:
            optuna.TrialPruned: an epoch was worse than the median of earlier trials.
        """
        import optuna

        spec = self.spec(suggest(trial, self.spaces, self._fixed()))
        prepared = self._prepare(spec)
        roles = replace(prepared.roles, report=prepared.roles.select, retrain=None, also={})
        trial_run = replace(prepared, roles=roles, family=prepared.family.for_selection)

        def watch(event: Progress | Inferred) -> None:
            if isinstance(event, Inferred):
                trial.set_user_attr("adapter_parameters", event.counts.adapter)
            elif event.epoch is not None:
                trial.report(event.epoch[prepared.family.selects.name], round(event.epoch["epoch"]))
                if trial.should_prune():
                    raise optuna.TrialPruned

        with tempfile.TemporaryDirectory(prefix="genft-trial-") as folder:
            result = run(trial_run, Store(Path(folder)).open(), watch)
        trial.set_user_attr("seconds", result.cost.seconds)
        return result.scores.value

    def _prepare(self, spec: RunSpec) -> PreparedRun:
        return prepare(spec, self.prepared.data, self.prepared.source, method=self.prepared.method)

    def _fixed(self) -> dict[str, Any]:
        spec = self.prepared.spec
        return spec.training.model_dump() | full_settings(self.prepared.method, spec.settings)

    def spec(self, values: Mapping[str, Any]) -> RunSpec:
        """The spec of a run with these values of the searched parameters."""
        spec = self.prepared.spec
        hyper = {k: v for k, v in values.items() if k in Training.model_fields}
        settings = {k: v for k, v in values.items() if k not in hyper}
        training = check(Training, {**spec.training.model_dump(), **hyper}, "training")
        return spec.model_copy(update={"settings": {**spec.settings, **settings}, "training": training})

    def importances(self) -> dict[str, float]:
        """The share of the variance between trials that each parameter explains (fANOVA); empty with too few trials."""
        import optuna

        if len(self.ranked) < WARM_UP:
            return {}
        try:
            return optuna.importance.get_param_importances(self.study)
        except (ValueError, RuntimeError):  # all trials equally good
            return {}

    def conclude(self, store: Store, watch: Callable[[Any], None]) -> tuple[Result, Path]:
        """Train with the best values, score the reporting split once, and write the values as a preset.

        Returns:
            The result, and the path of the preset.

        Raises:
            ConfigError: no trial was completed.
        """
        if not self.ranked:
            raise ConfigError("search: no trial was completed; allow more trials or more time")
        best = self.ranked[0]
        prepared = self._prepare(self.spec(best.params))
        with store.claim(prepared.key):  # another process may conclude the search at the same time
            result = prepared.stored(store) or run(prepared, store, watch)
        path = store.out / "search" / f"{self.study.study_name}.toml"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, _preset(self.study.study_name, prepared, best, result).encode())
        return result, path


def open_search(request: Request, out: Path, storage: str | None = None) -> Search:
    """Start a search, or resume the one of the same run and spaces.

    Args:
        request: the run; values that the user set are not searched.
        out: the output folder.
        storage: a URL that Optuna understands, or None for a journal file under ``out``.

    Raises:
        ConfigError: Optuna is not installed, the storage cannot be used, or there is nothing to search.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ConfigError("search: Optuna is not installed: pip install 'genft[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    prepared = prepare(request.spec, method=request.method)
    spaces = searched(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        content = json.dumps({name: space.model_dump(mode="json") for name, space in spaces.items()}, sort_keys=True)
        digest = hashlib.sha256(f"{prepared.key} {content}".encode()).hexdigest()[:16]
        name = f"{name_part(prepared.data.task.name)}-{prepared.spec.method}-{digest}"
        earlier = f"{prepared.data.task.name}-{prepared.spec.method}-{digest[:6]}"  # as genft 0.1 called it
        if storage is None and earlier in {path.stem for path in (out / "search").glob("*.journal")}:
            name = earlier
        if storage is None:
            folder = out / "search"
            folder.mkdir(parents=True, exist_ok=True)
            backend: Any = JournalStorage(JournalFileBackend(str(folder / f"{name}.journal")))
        else:
            backend = storage
        try:
            study = optuna.create_study(
                study_name=name,
                storage=backend,
                direction="maximize" if prepared.family.selects.higher_is_better else "minimize",
                load_if_exists=True,
                pruner=_pruner(prepared),
            )
        except Exception as e:  # the driver named by the URL may raise anything
            raise ConfigError(f"--storage {storage}: {str(e).splitlines()[0]}") from None
        seed = prepared.spec.seed + len(study.trials)  # the same seed would repeat the same draws
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=WARM_UP, multivariate=True, group=True, constant_liar=True
        )
    search = Search(prepared, spaces, study)
    if not study.trials:  # the first trial: the values of the preset, as far as the spaces contain them
        start = {k: v for k, v in search._fixed().items() if k in spaces and spaces[k].holds(v)}
        study.enqueue_trial(start)
    return search


def _pruner(prepared: PreparedRun) -> Any:
    """After a quarter of the epochs, a trial ends if an epoch is worse than the median of earlier trials."""
    import optuna

    return optuna.pruners.MedianPruner(
        n_startup_trials=WARM_UP, n_warmup_steps=max(1, prepared.spec.training.epochs // 4)
    )


def searched(request: Request) -> dict[str, Space]:
    """The spaces of the request's preset, without the values that the user set.

    Raises:
        ConfigError: nothing is left to search, or a space is for a setting that the method does not have.
    """
    method = request.method
    fixed = {k for values in (request.settings, request.training) for k, v in values.items() if v.source == USER}
    spaces = dict(request.spaces)
    if not spaces:
        raise ConfigError(
            f"search: the preset has no space for {method.name!r}; add a [methods.{method.name}.search] to it"
        )
    check_settings(method, [name for name in spaces if name not in Training.model_fields])
    for name, space in spaces.items():
        if unknown := [other for other in space.when if other not in spaces]:
            raise ConfigError(not_one_of(f"search: {name}: when", unknown[0], spaces, what="is not searched"))
    left = {name: space for name, space in spaces.items() if name not in fixed}
    if not left:
        raise ConfigError("search: you have set every value that the preset searches; leave one open")
    return left


def suggest(trial: Trial, spaces: Mapping[str, Space], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest a value for every parameter whose condition holds."""
    chosen: dict[str, Any] = {}
    for name, space in spaces.items():
        if all(chosen.get(other, fixed.get(other)) == value for other, value in space.when.items()):
            chosen[name] = _suggest(trial, name, space)
    return chosen


def _suggest(trial: Trial, name: str, space: Space) -> Any:
    if space.choices:
        return trial.suggest_categorical(name, space.choices)
    assert space.low is not None
    assert space.high is not None
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(name, space.low, space.high, log=space.log)
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def _preset(name: str, winner: PreparedRun, best: FrozenTrial, result: Result) -> str:
    """The winner as a preset in TOML. Scalars and lists are written the same way in TOML and JSON."""
    metric, spec = winner.family.selects.name, winner.spec
    source = f"genft search: {metric} {best.value:.4f} on the selection split of {result.task} with {spec.model}"
    lines = [f"name = {json.dumps(name)}", f"source = {json.dumps(source)}", "", f"[methods.{spec.method}.training]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in spec.training.model_dump().items() if v is not None]
    lines += ["", f"[methods.{spec.method}.settings]"]
    settings = {k: v for k, v in full_settings(winner.method, spec.settings).items() if k in spec.settings}
    lines += [f"{k} = {json.dumps(v)}" for k, v in settings.items() if v is not None]
    return "\n".join(lines) + "\n"
