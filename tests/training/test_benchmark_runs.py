"""Runs under the benchmarks' protocols: choose and train again, every ten epochs, matched and mismatched."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from benchmark_data import save_fgvc, save_glue, save_vtab
from genft import ConfigError
from genft.adapters import saved as artifact
from genft.data import load_task
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.store import Store, unpack
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run
from genft.training.session import Session

QUICK = {"epochs": 3, "batch_size": 8, "learning_rate": 5e-3, "image_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    save_vtab(root / "vtab-1k" / "eurosat", sizes=(24, 10, 12), classes=10)
    save_fgvc(root / "CUB_200_2011")
    save_glue(root / "glue")
    return root


def plan(task: str, root: Path, model: Path, method: str = "lora", **said: Any) -> PreparedRun:
    training = {**QUICK, **said.pop("training", {})}
    none = Preset(name="none", source="")
    return prepare(build_spec(load_task(task, root), str(model), none, training=training, method=method, **said).spec)


class Kill:
    """The run ends when training has reached ``step`` for the ``time``-th time."""

    def __init__(self, step: int, time: int) -> None:
        self.step, self.time = step, time

    def __call__(self, event: Progress | Inferred) -> None:
        if isinstance(event, Progress) and event.phase == "train" and event.epoch is None and event.step == self.step:
            self.time -= 1
            if not self.time:
                raise KeyboardInterrupt


def same(one: Result, other: Result) -> None:
    for name in ("epochs", "best_epoch", "steps"):
        assert getattr(one.history, name) == getattr(other.history, name), name
    assert (one.predictions, one.scores.value) == (other.predictions, other.scores.value)


@pytest.fixture(scope="module")
def whole(data: Path, timm_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(plan("eurosat", data, timm_vit), Store(tmp_path_factory.mktemp("whole")).open())


def test_val200_trains_again_with_the_chosen_epoch(whole: Result, data: Path, timm_vit: Path) -> None:
    planned = plan("eurosat", data, timm_vit)
    assert planned.spec.protocol == "val200"
    assert planned.roles.retrain is not None
    assert whole.examples == {"train": 24, "select": 10, "retrain": 34, "report": 12}
    assert len(whole.history.epochs) == 3
    assert whole.history.steps == 3 * 3 + whole.history.best_epoch * 5  # 24 and 34 examples in batches of 8


@pytest.mark.parametrize("killed", [(7, 1), (2, 2), (5, 2)], ids=["choosing", "beginning again", "an epoch later"])
def test_val200_goes_on_where_it_was_killed(
    killed: tuple[int, int], whole: Result, data: Path, timm_vit: Path, tmp_path: Path
) -> None:
    store, planned = Store(tmp_path).open(), plan("eurosat", data, timm_vit)
    with pytest.raises(KeyboardInterrupt):
        run(planned, store, Kill(*killed))
    resumed = run(planned, store)
    assert resumed.history.resumed_at > 0
    same(whole, resumed)
    assert not store.checkpoints(planned.key).exists()


def test_a_finished_second_training_is_not_repeated(
    whole: Result, data: Path, timm_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, planned = Store(tmp_path).open(), plan("eurosat", data, timm_vit)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(planned, store)
    resumed = run(planned, store)
    assert resumed.history.resumed_at == resumed.history.steps
    same(whole, resumed)


def test_the_second_training_sees_both_splits_on_the_whole_schedule(
    data: Path, timm_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[dict[str, Any]] = []
    honest = Session.fit

    def spy(session: Session, select: Any, checkpoints: Path, trackers: Any, stop_after: int | None = None) -> Any:
        fitted = honest(session, select, checkpoints, trackers, stop_after)
        rate = session.loop.lr_scheduler.get_last_lr()[0]
        examples = {"train": len(session.loop.examples), "select": select and len(select)}
        fits.append({**examples, "rate": rate, "stop_after": stop_after})
        return fitted

    monkeypatch.setattr(Session, "fit", spy)
    result = run(plan("eurosat", data, timm_vit, training={"schedule": "linear"}), Store(tmp_path).open())
    first, second = fits
    assert (first["train"], first["select"], first["stop_after"]) == (24, 10, None)
    assert (second["train"], second["select"], second["stop_after"]) == (34, None, result.history.best_epoch)
    assert second["rate"] == pytest.approx(QUICK["learning_rate"] * (3 - result.history.best_epoch) / 3 / 0.94, rel=0.1)


def test_the_paper_protocol_evaluates_test_every_ten_epochs(data: Path, timm_vit: Path, tmp_path: Path) -> None:
    planned = plan("eurosat", data, timm_vit, protocol="test", training={"epochs": 12}, method="linear")
    assert (len(planned.roles.train), planned.roles.select) == (34, planned.roles.report)
    result = run(planned, Store(tmp_path).open())
    assert [entry["epoch"] for entry in result.history.epochs] == [10, 12]
    assert result.scores.value == max(entry["accuracy"] for entry in result.history.epochs)


def test_fgvc_crops(data: Path, timm_vit: Path, tmp_path: Path) -> None:
    planned = plan("cub200", data, timm_vit, training={"epochs": 1})
    assert planned.spec.training.augment == "crop"
    result = run(planned, Store(tmp_path).open())
    trained = artifact.load(tmp_path / result.adapter)
    assert trained.saved.preprocessing.crop
    assert trained.saved.preprocessing.mean == (0.485, 0.456, 0.406)
    again = trained.predict(list(planned.roles.report.inputs))
    assert again.argmax(1).tolist() == unpack(result.predictions).tolist()


def test_random_augmentation_is_decided_by_the_seed(data: Path, timm_vit: Path, tmp_path: Path) -> None:
    results = []
    for name, augment in (("a", "randaug"), ("b", "randaug"), ("c", "none")):
        planned = plan("eurosat", data, timm_vit, training={"epochs": 1, "augment": augment}, protocol="holdout")
        results.append(run(planned, Store(tmp_path / name).open()))
    assert results[0].history.epochs == results[1].history.epochs
    assert results[0].history.epochs != results[2].history.epochs


def test_mnli_reports_matched_and_mismatched(data: Path, bert: Path, tmp_path: Path) -> None:
    result = run(plan("mnli", data, bert, training={"epochs": 1}, limit_eval=20), Store(tmp_path).open())
    assert result.scores.value == result.scores.metrics["accuracy"]
    assert 0 <= result.scores.metrics["accuracy (mismatched)"] <= 1
    assert result.examples["report"] == 20


def test_text_and_image_settings_are_not_mixed(data: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match="augment: applies to images, and this task has texts"):
        plan("cola", data, bert, training={"augment": "randaug"})
    with pytest.raises(
        ConfigError, match=r"drop_path: .*\(bert\) has no drop path in transformers; use 0, or a timm model"
    ):
        Session(plan("cola", data, bert, training={"drop_path": 0.1}))


@pytest.mark.parametrize("family", ["timm", "dinov2"])
def test_drop_path_skips_blocks_while_training_only(family: str, data: Path, timm_vit: Path, tmp_path: Path) -> None:
    model = timm_vit
    if family == "dinov2":
        model = tmp_path / "dinov2"
        config = hf.Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
        )
        hf.Dinov2ForImageClassification(config).save_pretrained(model)
    images = torch.randn(2, 3, 32, 32)
    outputs = {}
    for rate in (0.0, 0.9):
        built = Session(plan("eurosat", data, model, training={"drop_path": rate}, method="linear")).model
        outputs[rate] = built.eval()(images).logits
        built.train()
        torch.manual_seed(1)
        trained = torch.stack([built(images).logits for _ in range(8)])
        assert (trained.std(0).max() > 1e-4) == (rate > 0)
    torch.testing.assert_close(outputs[0.0], outputs[0.9])
