"""The plugin against axolotl's own base class, manager and check of its file; without axolotl nothing to test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from families import FAMILIES
from genft import ConfigError, GenFTConfig

base = pytest.importorskip("axolotl.integrations.base", exc_type=ImportError)
DictDefault = pytest.importorskip("axolotl.utils.dict", exc_type=ImportError).DictDefault

LLAMA = FAMILIES["llama"]
PLUGIN = "genft.integrations.axolotl.GenFTPlugin"
SETTINGS = {"shared_dim": 4, "specific_dim": 2, "init_weights": False}


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    manager = base.PluginManager.get_instance()
    monkeypatch.setattr(manager, "plugins", type(manager.plugins)())
    manager.register(PLUGIN)
    return manager


def file(**keys: Any) -> Any:
    return DictDefault({"adapter": "genft", "adapter_settings": SETTINGS, **keys})


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(**LLAMA.batch()).logits


def test_the_plugin_overrides_hooks_that_axolotl_has(manager: Any) -> None:
    plugin = manager.plugins[PLUGIN]
    own = {name for name in vars(type(plugin)) if not name.startswith("_")}
    assert own <= set(vars(base.BasePlugin))
    assert all(map(manager.supports_adapter, ("genft", "vectorfit", "adaptformer")))
    assert not manager.supports_adapter("lora")
    assert manager.load_adapter(LLAMA.build(), file(adapter="mora")) is None


def test_the_key_that_the_plugin_adds_to_the_file(manager: Any) -> None:
    (where,) = manager.get_input_args()
    module, _, name = where.rpartition(".")
    args = getattr(pytest.importorskip(module), name)
    assert args(adapter_settings=SETTINGS).adapter_settings == SETTINGS
    assert args().adapter_settings == {}


def test_an_adapter_is_built_saved_and_loaded(manager: Any, tmp_path: Path) -> None:
    cfg = file(lora_target_modules=["q_proj", "v_proj"], peft_layers_to_transform=[0])
    model, config = manager.load_adapter(LLAMA.build(), cfg)
    assert isinstance(config, GenFTConfig)
    assert (config.shared_dim, config.target_modules, config.layers_to_transform) == (4, ["q_proj", "v_proj"], [0])
    assert {str(s).rpartition(".")[2] for s in model.base_model.adapters["default"].every_site} == {"q_proj", "v_proj"}
    model.save_pretrained(tmp_path)
    for inference in (False, True):
        again, _ = manager.load_adapter(LLAMA.build(), file(lora_model_dir=str(tmp_path)), inference=inference)
        assert isinstance(again, PeftModel)
        assert torch.equal(logits(again), logits(model))
        assert any(p.requires_grad for p in again.parameters()) is not inference


def test_only_the_configuration_for_trainers_that_attach_it_themselves(manager: Any) -> None:
    model, config = manager.load_adapter(LLAMA.build(), file(), config_only=True)
    assert model is None
    assert config == GenFTConfig(task_type="CAUSAL_LM", **SETTINGS)


def test_an_unknown_setting_is_one_sentence(manager: Any) -> None:
    with pytest.raises(ConfigError, match=r"shared_dims.*shared_dim"):
        manager.load_adapter(LLAMA.build(), file(adapter_settings={"shared_dims": 4}))
