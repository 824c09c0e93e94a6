"""Runs from a spec to a saved adapter, on models of a few thousand weights."""

import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from transformers import Trainer

import genft
from genft import AdapterFileError, BaseMismatchError, ConfigError, DataError, TargetError, TrainingError
from genft.adapters import saved as artifact
from genft.data import task_from_path
from genft.methods import METHODS
from genft.models.source import find_model
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.store import Store, unpack
from genft.sweeps.processes import run_in_process
from genft.training.callbacks import Inferred, Progress
from genft.training.memory import PeakMemory
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run
from genft.training.session import Session
from saved_models import save_bert, save_reviews

QUICK = {"epochs": 3, "batch_size": 8, "learning_rate": 5e-3}


def plan(
    data: Path, model: Path, method: str = "genft", *, options: dict[str, Any] | None = None, **said: Any
) -> PreparedRun:
    training = {**QUICK, **said.pop("training", {})}
    settings = said.pop("settings", {})
    task = task_from_path(data, **(options or {}))
    preset = Preset(name="none", source="")
    return prepare(
        build_spec(task, str(model), preset, settings=settings, training=training, method=method, **said).spec
    )


def tensors(store: Store, result: Result) -> dict[str, torch.Tensor]:
    folder = store.out / result.adapter
    saved = load_file(next(folder.glob("*.safetensors")))
    return {name: value for name, value in saved.items() if not name.endswith("_base")}  # fingerprints of the base


#: Settings for weights of 16 by 16 and images of five tokens.
SMALL = {"fourierft": {"n_frequency": 100}, "peft:RANDLORA": {"r": 4}, "vpt_deep": {"prompts": 2}}
#: What is saved in place of what was trained: LoRA of twice the rank, random projections too, the finished prompt.
#: Methods that depend on singular vectors also save a sketch of 10 by 8 for each of their weights.
SAVED = {
    "pissa": 2048,
    "corda": 2048,
    "vera": 1088 + 2 * 256 * 16,
    "p_tuning": 20 * 16,
    "vectorfit": 400 + 12 * 80,
    "svft": 192 + 12 * 80,
    "lora_xs": 1024 + 4 * 80,
    "peft:RANDLORA": None,
}
TEXT_METHODS = [name for name, info in METHODS.items() if "text" in info.kinds]


@pytest.mark.parametrize("method", [*TEXT_METHODS, "peft:RANDLORA"])
def test_every_method_trains_saves_and_predicts_again(method: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    """The four hops end in a folder that gives the very predictions of the report, in a fresh model."""
    store = Store(tmp_path).open()
    planned = plan(reviews, bert, method, settings=SMALL.get(method, {}))
    result = run(planned, store)
    assert store.get(planned.key) == result
    assert 0 <= result.scores.interval[0] <= result.scores.value <= result.scores.interval[1] <= 1
    assert result.examples == {"train": 44, "select": 4, "report": 12}
    assert (result.history.steps, len(result.history.epochs)) == (18, 3)
    assert result.history.epochs[result.history.best_epoch - 1]["accuracy"] == max(
        e["accuracy"] for e in result.history.epochs
    )
    assert result.cost.seconds_per_step > 0
    assert result.cost.peak_memory_bytes > 1e8
    assert {p.name for p in tmp_path.iterdir()} == {"results", "adapters", "checkpoints"}
    assert not list((tmp_path / "checkpoints").iterdir())

    saved = tensors(store, result)
    wanted = SAVED.get(method, result.counts.adapter)
    assert wanted is None or sum(t.numel() for t in saved.values()) == wanted + result.counts.head
    assert result.cost.adapter_bytes == next((tmp_path / result.adapter).glob("*.safetensors")).stat().st_size
    assert result.counts.head == 2 * 16 + 2
    assert (result.counts.adapter == 0) == (method == "linear")

    trained = artifact.load(tmp_path / result.adapter)
    again = trained.predict(list(planned.roles.report.inputs))
    assert again.argmax(1).tolist() == unpack(result.predictions).tolist()
    assert unpack(result.targets).tolist() == [int(label) for label in planned.roles.report.labels]
    assert str(tmp_path) not in (tmp_path / result.adapter / artifact.TASK_FILE).read_text()


def test_training_learns(bert: Path, tmp_path: Path) -> None:
    data = save_reviews(tmp_path / "reviews.csv", rows=200)
    training = {"epochs": 20, "learning_rate": 1e-2, "head_learning_rate": 2e-2}
    result = run(plan(data, bert, training=training, settings={"shared_dim": 8}), Store(tmp_path).open())
    assert result.scores.value >= 0.85
    assert result.history.epochs[-1]["train_loss"] < 0.5 * result.history.epochs[0]["train_loss"]


def test_a_run_is_determined_by_its_spec(reviews: Path, bert: Path, tmp_path: Path) -> None:
    stores = [Store(tmp_path / name).open() for name in ("a", "b", "c")]
    first, second = (run(plan(reviews, bert), store) for store in stores[:2])
    assert first.history.epochs == second.history.epochs
    for a, b in zip(tensors(stores[0], first).values(), tensors(stores[1], second).values(), strict=True):
        assert torch.equal(a, b)
    assert run(plan(reviews, bert, seed=1), stores[2]).history.epochs != first.history.epochs


class Interrupt:
    """Somebody presses Ctrl-C after an epoch, once its checkpoint is written."""

    def __init__(self, after_step: int) -> None:
        self.after_step = after_step

    def __call__(self, event: Progress | Inferred) -> None:
        if isinstance(event, Progress) and event.phase == "train" and event.step > self.after_step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["genft", "lora", "adalora", "pissa", "corda", "p_tuning", "linear", "full"])
def test_an_interrupted_run_ends_with_the_same_weights(method: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    whole, parts = Store(tmp_path / "whole").open(), Store(tmp_path / "parts").open()
    uninterrupted = run(plan(reviews, bert, method), whole)
    planned = plan(reviews, bert, method)
    for step in (7, 13):
        with pytest.raises(KeyboardInterrupt):
            run(planned, parts, Interrupt(step))
        assert parts.get(planned.key) is None
    broken = parts.checkpoints(planned.key) / "checkpoint-17"  # as if killed while writing it
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step"')
    resumed = run(planned, parts)
    assert resumed.history.resumed_at == 12
    assert not broken.exists()
    assert resumed.history.epochs == uninterrupted.history.epochs
    assert resumed.predictions == uninterrupted.predictions
    expected = tensors(whole, uninterrupted)
    for name, tensor in tensors(parts, resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, planned = Store(tmp_path).open(), plan(reviews, bert)
    honest = Trainer.training_step

    def breaks_in_step_9(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = honest(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step + 1 == 9 else loss

    monkeypatch.setattr(Trainer, "training_step", breaks_in_step_9)
    with pytest.raises(
        TrainingError,
        match=r"nan in step 9 of 18; the checkpoint of step 6 is kept, and training can resume from it; .*0\.005",
    ):
        run(planned, store)
    assert (store.checkpoints(planned.key) / "checkpoint-6" / "adapter_model.safetensors").is_file()
    assert store.get(planned.key) is None
    monkeypatch.undo()
    assert run(planned, store).history.resumed_at == 6


def test_a_learning_rate_beyond_reason_is_a_sentence(reviews: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in step \d+ of 18; there is no earlier"):
        run(plan(reviews, bert, "full", training={"learning_rate": 1e30}), Store(tmp_path).open())


def test_a_missing_pooler_is_trained_and_saved(reviews: Path, tmp_path: Path) -> None:
    model, store = save_bert(tmp_path / "bert", pooler=False), Store(tmp_path / "out").open()
    planned = plan(reviews, model)
    result = run(planned, store)
    assert result.counts.head == (2 * 16 + 2) + (16 * 16 + 16)
    trained = artifact.load(store.out / result.adapter)
    assert trained.predict(list(planned.roles.report.inputs)).argmax(1).tolist() == unpack(result.predictions).tolist()


def test_a_regression(reviews: Path, bert: Path, tmp_path: Path) -> None:
    planned = plan(reviews, bert, options={"label_column": "grade", "regression": True})
    result = run(planned, Store(tmp_path).open())
    assert result.scores.metric == "pearson"
    values = artifact.load(tmp_path / result.adapter).predict(list(planned.roles.report.inputs))
    assert values.shape == (12, 1)
    np.testing.assert_allclose(values[:, 0], unpack(result.predictions), rtol=1e-5)


def test_label_smoothing_is_for_classes(reviews: Path, bert: Path, tmp_path: Path) -> None:
    smooth = {"label_smoothing": 0.1}
    plain, smoothed = plan(reviews, bert), plan(reviews, bert, training=smooth)
    losses = [run(p, Store(tmp_path / p.key).open()).history.epochs[0]["train_loss"] for p in (plain, smoothed)]
    assert losses[0] != losses[1]
    with pytest.raises(ConfigError, match="label_smoothing: applies to classes"):
        plan(reviews, bert, training=smooth, options={"label_column": "grade", "regression": True})


def test_mixed_precision(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = run(plan(reviews, bert, training={"precision": "bf16"}), Store(tmp_path).open())
    assert {t.dtype for t in tensors(Store(tmp_path), result).values()} == {torch.float32}


def test_pairs_of_texts(reviews: Path, bert: Path, tmp_path: Path) -> None:
    planned = plan(reviews, bert, options={"text_columns": ["grade", "text"]})
    result = run(planned, Store(tmp_path).open())
    assert artifact.load(tmp_path / result.adapter).saved.text_columns == ("grade", "text")


@pytest.mark.parametrize("method", ["genft", "lora", "pissa", "corda", "adalora", "ia3", "vpt_deep", "linear"])
def test_images_through_timm(method: str, images: Path, timm_vit: Path, tmp_path: Path) -> None:
    training = {"epochs": 6, "learning_rate": 1e-2}
    planned = plan(images, timm_vit, method, settings=SMALL.get(method, {}), training=training)
    result = run(planned, Store(tmp_path).open())
    assert result.scores.value == 1  # dark against bright
    again = artifact.load(tmp_path / result.adapter).predict(list(planned.roles.report.inputs))
    assert again.argmax(1).tolist() == unpack(result.predictions).tolist()


def test_a_method_may_train_more_than_its_outputs(images: Path, timm_vit: Path, tmp_path: Path) -> None:
    """SA²VP's second loss changes what is learnt, also where the loss is not the model's own."""
    learnt = []
    for weight in (0.0, 0.2):
        for balanced in (False, True):
            settings = {"inner": 4, "dropout": 0.0, "prompt_loss": weight}
            training = {"epochs": 1, "class_weights": "balanced" if balanced else "none"}
            result = run(plan(images, timm_vit, "sa2vp", settings=settings, training=training), Store(tmp_path).open())
            learnt.append(torch.cat([t.flatten() for t in tensors(Store(tmp_path), result).values()]))
    for without, both in zip(learnt[:2], learnt[2:], strict=True):
        assert not torch.equal(without, both)


def test_the_head_has_its_own_learning_rate(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """A rate of almost nothing leaves the head where it began, while the adapter moves."""
    store = Store(tmp_path).open()
    planned = plan(reviews, bert, training={"head_learning_rate": 1e-12})
    before = Session(planned).model.state_dict()
    after = tensors(store, run(planned, store))
    head = next(t for name, t in after.items() if "classifier.weight" in name)
    initial = next(t for name, t in before.items() if "classifier.modules_to_save.default.weight" in name)
    torch.testing.assert_close(head, initial, atol=1e-9, rtol=0)
    assert any(t.abs().max() > 1e-3 for name, t in after.items() if "v_out" in name or ".b" in name)


@pytest.fixture
def sentence_bert(bert: Path, tmp_path: Path) -> Path:
    """As sentence-transformers saves a model: it pools the tokens itself, and the pooler was never trained."""
    folder = shutil.copytree(bert, tmp_path / "sentence-bert")
    (folder / "modules.json").write_text("[]")
    return folder


@pytest.mark.parametrize("method", ["genft", "lora", "bitfit", "linear", "prompt_tuning"])
def test_an_untrained_pooler_is_trained_and_saved(
    method: str, reviews: Path, sentence_bert: Path, tmp_path: Path
) -> None:
    planned, store = plan(reviews, sentence_bert, method, training={"epochs": 1}), Store(tmp_path / "out").open()
    inferred = Session(planned).inferred
    trains = method != "prompt_tuning"  # peft's prompts can train the head alone
    assert inferred.head == (("classifier", "bert.pooler") if trains else ("classifier",))
    assert ("trained and saved like the head" if trains else "leaves it frozen") in inferred.notes[0]
    result = run(planned, store)
    assert result.counts.head == 2 * 16 + 2 + trains * (16 * 16 + 16)
    saved = tensors(store, result)
    assert any("pooler" in name for name in saved) == trains
    again = artifact.load(store.out / result.adapter).predict(list(planned.roles.report.inputs))
    assert again.argmax(1).tolist() == unpack(result.predictions).tolist()


def test_a_head_saved_without_the_pooler_still_loads(reviews: Path, sentence_bert: Path, tmp_path: Path) -> None:
    """As genft 0.1 saved the baseline ``linear``, which left such a pooler frozen."""
    planned, store = plan(reviews, sentence_bert, "linear", training={"epochs": 1}), Store(tmp_path / "out").open()
    folder = store.out / run(planned, store).adapter
    file = next(folder.glob("*.safetensors"))
    save_file({name: t for name, t in load_file(file).items() if "pooler" not in name}, file)
    artifact.load(folder)
    save_file({name: t for name, t in load_file(file).items() if name.endswith("bias")}, file)
    with pytest.raises(AdapterFileError, match="has no values for"):
        artifact.load(folder)


def test_a_resumed_regression_is_in_the_units_of_its_targets(reviews: Path, bert: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(reviews)
    frame["stars"] = 40 + 12 * frame["grade"]
    frame.to_csv(tmp_path / "stars.csv", index=False)
    planned = plan(
        tmp_path / "stars.csv", bert, options={"label_column": "stars", "text_columns": ["text"], "regression": True}
    )
    assert planned.former_key is None  # an older result learned other targets
    whole, again = Store(tmp_path / "whole").open(), Store(tmp_path / "again").open()
    expected = run(planned, whole)
    with pytest.raises(KeyboardInterrupt):
        run(planned, again, Interrupt(after_step=planned.steps // 2))
    result = run(planned, again)
    assert result.history.resumed_at > 0
    assert result.predictions == expected.predictions
    assert 38 < unpack(result.predictions).mean() < 54
    assert [epoch["pearson"] for epoch in result.history.epochs] == [e["pearson"] for e in expected.history.epochs]
    values = artifact.load(again.out / result.adapter).predict(list(planned.roles.report.inputs))[:, 0]
    np.testing.assert_allclose(values, unpack(result.predictions), rtol=1e-5)


def test_a_strangers_tools_load_the_folder(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """peft alone, after `import genft`, gives the same probabilities; the model card says how."""
    planned = plan(reviews, bert)
    result = run(planned, Store(tmp_path).open())
    folder = tmp_path / result.adapter
    ours = genft.load_adapter(folder)
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    batch = ours.tokenizer(["w1 good w2"], return_tensors="pt")
    expected = ours.predict([("w1 good w2",)])
    assert torch.equal(ours.predict(["w1 good w2"]), expected)
    torch.testing.assert_close(model(**batch).logits.softmax(1), expected)
    assert isinstance(model, PeftModel)
    card = (folder / "README.md").read_text()
    assert "import genft\nfrom peft import" in card
    assert "Predicts, in this order: bad, good." in card
    assert "pass its location as `base=`" in card


def test_damaged_adapters_are_sentences(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = run(plan(reviews, bert, "lora"), Store(tmp_path).open())
    good = tmp_path / result.adapter

    def damaged(name: str, content: bytes | None) -> Path:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return folder

    weights = (good / "adapter_model.safetensors").read_bytes()
    for name, content, message in [
        ("adapter_model.safetensors", weights[:-40], "damaged or incomplete"),
        ("adapter_model.safetensors", b"", "damaged or incomplete"),
        ("adapter_model.safetensors", None, "is missing"),
        ("genft_task.json", b"{", "is damaged"),
        ("genft_task.json", b"{}", "'task' is missing"),
        ("genft_task.json", None, "is missing, so the labels are unknown"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "x"}', "cannot be loaded"),
    ]:
        with pytest.raises(AdapterFileError, match=message):
            artifact.load(damaged(name, content))
    with pytest.raises(AdapterFileError, match="is not a folder"):
        artifact.load(tmp_path / "nothing")


def test_another_base_is_refused(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = run(plan(reviews, bert), Store(tmp_path).open())
    other = shutil.copytree(bert, tmp_path / "other")
    model = plan(reviews, bert).family.load(find_model(str(other))).model
    torch.nn.init.normal_(model.bert.encoder.layer[0].attention.self.query.weight)
    model.bert.save_pretrained(other)
    with pytest.raises(BaseMismatchError, match=r"encoder\.layer\.0\.attention\.self\.query"):
        artifact.load(tmp_path / result.adapter, base=str(other))
    assert artifact.load(tmp_path / result.adapter, base=str(bert))


def test_a_base_that_has_moved(reviews: Path, tmp_path: Path) -> None:
    model = save_bert(tmp_path / "here")
    result = run(plan(reviews, model), Store(tmp_path / "out").open())
    model.rename(tmp_path / "there")
    with pytest.raises(ConfigError, match=r"here does not exist; if you have this model elsewhere, .*--base"):
        artifact.load(tmp_path / "out" / result.adapter)
    assert artifact.load(tmp_path / "out" / result.adapter, base=str(tmp_path / "there"))


@pytest.mark.parametrize("method", ["genft", "lora"])
def test_targets_that_match_nothing_name_the_nearest(method: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    planned = plan(reviews, bert, method, settings={"target_modules": ["qurey"]})
    with pytest.raises(TargetError, match=r"target_modules: .*'qurey'.*nearest: 'query'"):
        run(planned, Store(tmp_path).open())


def test_what_was_inferred_is_reported_first(reviews: Path, bert: Path, tmp_path: Path) -> None:
    events: list[Progress | Inferred] = []
    run(plan(reviews, bert, "lora"), Store(tmp_path).open(), events.append)
    found = events[0]
    assert isinstance(found, Inferred)
    assert found.targets == {"query": 2, "value": 2}
    assert found.head == ("classifier",)
    assert found.counts.adapter == 2 * 2 * 8 * (16 + 16)
    epochs = [e.epoch for e in events[1:] if isinstance(e, Progress) and e.epoch]
    assert [e["epoch"] for e in epochs] == [1, 2, 3]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*file/x: cannot be written"):
        Store(tmp_path / "file" / "x").open()


def test_a_damaged_image_in_training_is_named(timm_vit: Path, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "photos")
    for path in folder.glob("dark/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dark/\d+\.png: cannot be read as an image"):
        run(plan(folder, timm_vit), Store(tmp_path / "out").open())


def test_a_run_in_its_own_process(reviews: Path, bert: Path, tmp_path: Path) -> None:
    events: list[Progress | Inferred] = []
    planned = plan(reviews, bert, training={"epochs": 1})
    result = run_in_process(planned.spec, tmp_path, events.append)
    assert Store(tmp_path).get(planned.key) == result
    assert isinstance(events[0], Inferred)
    assert events[-1].phase == "evaluate"  # type: ignore[union-attr]
    same = run(planned, Store(tmp_path / "here").open())
    assert same.predictions == result.predictions
    bad = planned.spec.model_copy(update={"settings": {"target_modules": ["qurey"]}})
    with pytest.raises(TargetError, match="nearest: 'query'"):
        run_in_process(bad, tmp_path)


def test_a_process_that_is_killed_is_said(reviews: Path, bert: Path, tmp_path: Path) -> None:
    import multiprocessing

    def kill(event: Progress | Inferred) -> None:
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.2)

    with pytest.raises(TrainingError, match=r"genft was ended by SIGKILL; the machine may be out of memory"):
        run_in_process(plan(reviews, bert).spec, tmp_path, kill)


def test_peak_memory_is_of_the_stretch() -> None:
    with PeakMemory() as small:
        pass
    with PeakMemory() as large:
        block = torch.ones(30_000_000)
    del block
    assert 1e8 < large.bytes - small.bytes < 2e8
    with PeakMemory() as after:
        pass
    if after.of == "process, while it trained":
        assert after.bytes < large.bytes - 1e8


def test_nothing_is_fetched_and_nothing_is_warned(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    import peft.utils.other

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(peft.utils.other, "file_exists", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(plan(reviews, bert, "lora"), Store(tmp_path).open())


def test_the_result_file_holds_what_others_need(reviews: Path, bert: Path, tmp_path: Path) -> None:
    result = run(plan(reviews, bert), Store(tmp_path).open())
    content = json.loads((tmp_path / "results" / f"{result.key}.json").read_text())
    assert content["spec"]["training"]["learning_rate"] == 5e-3
    assert content["protocol"] == "holdout"
    provenance = content["provenance"]
    assert set(provenance["versions"]) >= {"genft", "torch", "transformers", "peft"}
    assert len(provenance["model_fingerprint"]) == len(provenance["data_fingerprint"]) == 64
    assert provenance["device"].startswith("CPU")
