"""Search for hyper-parameters: Optuna's TPE over the spaces in a preset, pruned by early validation.

A trial is a run that reports on the split which selects: the reporting split (the test split) is read once, by the run
of the winner. Everything is kept in Optuna's storage, so a search can be interrupted, continued, and shared by any
number of processes that are started with the same command.
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

from genft.errors import ConfigError, GenFTError, not_one_of
from genft.files import write_atomically
from genft.methods import get_method
from genft.presets import Space
from genft.records import check
from genft.runs.spec import Request, RunSpec, Training, check_settings, full_settings
from genft.runs.store import Result, Store
from genft.training.callbacks import Inferred, Progress
from genft.training.run import Plan, prepare, run

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

#: Trials before the sampler and the pruner begin to use what was found.
WARM_UP = 5


@dataclass(frozen=True)
class Search:
    """A search that has been opened.

    Attributes:
        plan: the run of the winner, with the values that are searched still at their start.
        spaces: what is searched, by name: settings of the method and fields of training.
        study: Optuna's, with all trials so far.
    """

    plan: Plan
    spaces: Mapping[str, Space]
    study: Study

    @property
    def finished(self) -> list[FrozenTrial]:
        return [t for t in self.study.trials if t.state.is_finished() and "interrupted" not in t.user_attrs]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """Complete trials, the best first."""
        complete = [t for t in self.study.trials if t.state.name == "COMPLETE"]
        return sorted(complete, key=lambda t: -(t.value or 0.0))

    def run(self, trials: int, seconds: float | None, watch: Callable[[FrozenTrial], None]) -> None:
        """Go on until ``trials`` are finished in all; none is begun after ``seconds``."""
        began = time.monotonic()
        while len(self.finished) < trials and (seconds is None or time.monotonic() - began < seconds):
            watch(self._one())

    def _one(self) -> FrozenTrial:
        """Ask for a trial, do it, and tell what came out."""
        import optuna

        trial = self.study.ask()
        state, value = optuna.trial.TrialState.FAIL, None
        try:
            value = self._score(trial)
            state = optuna.trial.TrialState.COMPLETE
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except GenFTError as e:  # settings that do not go together, a loss that is no number
            trial.set_user_attr("error", str(e).splitlines()[0])
        except BaseException:
            trial.set_user_attr("interrupted", True)
            self.study.enqueue_trial(trial.params)  # for whoever goes on
            raise
        finally:
            told = self.study.tell(trial, value, state=state, skip_if_finished=True)
        return told

    def _score(self, trial: Trial) -> float:
        """The best epoch's metric on the selecting split.

        Raises:
            optuna.TrialPruned: an epoch was worse than those of most trials before.
        """
        import optuna

        spec = self.spec(suggest(trial, self.spaces, self._fixed()))
        plan = prepare(spec, self.plan.data, self.plan.source)
        roles = replace(plan.roles, report=plan.roles.select, retrain=None, also={})

        def watch(event: Progress | Inferred) -> None:
            if isinstance(event, Inferred):
                trial.set_user_attr("adapter_parameters", event.adapter_parameters)
            elif event.epoch is not None:
                trial.report(event.epoch[plan.data.task.metric], round(event.epoch["epoch"]))
                if trial.should_prune():
                    raise optuna.TrialPruned

        with tempfile.TemporaryDirectory(prefix="genft-trial-") as folder:
            result = run(replace(plan, roles=roles), Store(Path(folder)).open(), watch)
        trial.set_user_attr("seconds", result.cost.seconds)
        return result.scores.value

    def _fixed(self) -> dict[str, Any]:
        spec = self.plan.spec
        return spec.training.model_dump() | full_settings(get_method(spec.method), spec.settings)

    def spec(self, values: Mapping[str, Any]) -> RunSpec:
        """The winner's run with these values of what is searched."""
        spec = self.plan.spec
        of_training = {k: v for k, v in values.items() if k in Training.model_fields}
        settings = {k: v for k, v in values.items() if k not in of_training}
        training = check(Training, {**spec.training.model_dump(), **of_training}, "training")
        return spec.model_copy(update={"settings": {**spec.settings, **settings}, "training": training})

    def importances(self) -> dict[str, float]:
        """Share of the differences between trials that each parameter explains (fANOVA); empty with too few trials."""
        import optuna

        if len(self.ranked) < WARM_UP:
            return {}
        try:
            return optuna.importance.get_param_importances(self.study)
        except (ValueError, RuntimeError):  # all trials equally good
            return {}

    def conclude(self, store: Store, watch: Callable[[Any], None]) -> tuple[Result, Path]:
        """Train with the best values, report once, and write them as a preset; (the result, the preset's file).

        Raises:
            ConfigError: no trial has been completed.
        """
        if not self.ranked:
            raise ConfigError("search: no trial was completed; allow more trials or more time")
        best = self.ranked[0]
        plan = prepare(self.spec(best.params), self.plan.data, self.plan.source)
        with store.claim(plan.key):  # whoever shares the search may conclude it at the same time
            result = store.get(plan.key) or run(plan, store, watch)
        path = store.out / "search" / f"{self.study.study_name}.toml"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, _preset(self.study.study_name, plan.spec, best, result).encode())
        return result, path


def open_search(request: Request, out: Path, storage: str | None = None) -> Search:
    """Begin a search, or go on with the one of the same run and spaces.

    Args:
        request: the run; what its user has said is not searched.
        storage: a URL that Optuna understands; None for a journal file under ``out``.

    Raises:
        ConfigError: Optuna is not there, the storage cannot be used, or there is nothing to search.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ConfigError("search: Optuna is not installed: pip install 'genft[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = prepare(request.spec)
    spaces = searched(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        content = json.dumps({name: space.model_dump(mode="json") for name, space in spaces.items()}, sort_keys=True)
        digest = hashlib.sha256(f"{plan.key} {content}".encode()).hexdigest()[:6]
        name = f"{plan.data.task.name}-{plan.spec.method}-{digest}"
        if storage is None:
            place = out / "search"
            place.mkdir(parents=True, exist_ok=True)
            where: Any = JournalStorage(JournalFileBackend(str(place / f"{name}.journal")))
        else:
            where = storage
        try:
            study = optuna.create_study(
                study_name=name, storage=where, direction="maximize", load_if_exists=True, pruner=_pruner(plan)
            )
        except Exception as e:  # of whatever driver the URL names
            raise ConfigError(f"--storage {storage}: {str(e).splitlines()[0]}") from None
        seed = plan.spec.seed + len(study.trials)  # the same seed would begin again with the same draws
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=WARM_UP, multivariate=True, group=True, constant_liar=True
        )
    found = Search(plan, spaces, study)
    if not study.trials:  # where the search begins: the values of the preset, as far as the spaces hold them
        start = {k: v for k, v in found._fixed().items() if k in spaces and spaces[k].holds(v)}
        study.enqueue_trial(start)
    return found


def _pruner(plan: Plan) -> Any:
    """After a quarter of the epochs, one that is worse than the median of the trials before ends its trial."""
    import optuna

    return optuna.pruners.MedianPruner(n_startup_trials=WARM_UP, n_warmup_steps=max(1, plan.spec.training.epochs // 4))


def searched(request: Request) -> dict[str, Space]:
    """The spaces of the request's preset, without what the user has said.

    Raises:
        ConfigError: nothing is left, or a space is for something that the method does not have.
    """
    method = request.spec.method
    said = {
        k for values in (request.settings, request.training) for k, v in values.items() if v.source == "command line"
    }
    spaces = dict(request.spaces)
    if not spaces:
        raise ConfigError(f"search: the preset has no space for {method!r}; add a [methods.{method}.search] to it")
    check_settings(get_method(method), [name for name in spaces if name not in Training.model_fields])
    for name, space in spaces.items():
        if unknown := [other for other in space.when if other not in spaces]:
            raise ConfigError(not_one_of(f"search: {name}: when", unknown[0], spaces, what="is not searched"))
    left = {name: space for name, space in spaces.items() if name not in said}
    if not left:
        raise ConfigError("search: every value that the preset searches was said; leave one open")
    return left


def suggest(trial: Trial, spaces: Mapping[str, Space], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """A value of every parameter whose condition holds."""
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


def _preset(name: str, spec: RunSpec, best: FrozenTrial, result: Result) -> str:
    """The winner as a preset in TOML. Scalars and lists look in TOML as they do in JSON."""
    metric = result.scores.metric
    source = f"genft search: {metric} {best.value:.4f} on the selecting split of {result.task} with {spec.model}"
    lines = [f"name = {json.dumps(name)}", f"source = {json.dumps(source)}", "", f"[methods.{spec.method}.training]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in spec.training.model_dump().items() if v is not None]
    lines += ["", f"[methods.{spec.method}.settings]"]
    settings = {k: v for k, v in full_settings(get_method(spec.method), spec.settings).items() if k in spec.settings}
    lines += [f"{k} = {json.dumps(v)}" for k, v in settings.items() if v is not None]
    return "\n".join(lines) + "\n"
