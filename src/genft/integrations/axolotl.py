"""An axolotl plugin for genft's methods: set ``adapter: genft`` in the YAML file.

.. code-block:: yaml

    plugins:
      - genft.integrations.axolotl.GenFTPlugin
    adapter: genft              # or vectorfit, or another method of `genft list methods`
    adapter_settings:           # as in GenFTConfig(...)
      shared_dim: 24
    lora_target_modules: [q_proj, v_proj]   # these keys of axolotl mean the same as for LoRA
    lora_model_dir: ./outputs/earlier       # continues training a saved adapter
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import AdapterCapabilities, BasePlugin
from peft import PeftConfig, PeftModel, get_peft_model
from pydantic import BaseModel, Field

from genft.api.settings import check_settings
from genft.methods import METHODS, get_method

#: Maps axolotl's keys to our settings; ``adapter_settings`` takes precedence.
SAME_AS_FOR_LORA = {
    "lora_target_modules": "target_modules",
    "lora_modules_to_save": "modules_to_save",
    "peft_layers_to_transform": "layers_to_transform",
}
OUR_METHODS = [name for name, info in METHODS.items() if info.method is not None]


class AdapterArgs(BaseModel):
    """The keys that the plugin adds to axolotl's configuration file."""

    adapter_settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the method by name.")


class GenFTPlugin(BasePlugin):  # type: ignore[misc]
    """Builds or loads the adapter if axolotl is configured with one of our methods."""

    def get_input_args(self) -> str:
        return f"{__name__}.{AdapterArgs.__name__}"

    def get_adapter_capabilities(self) -> list[AdapterCapabilities]:
        return [AdapterCapabilities(name=name) for name in OUR_METHODS]

    def load_adapter(
        self, model: Any, cfg: Any, inference: bool = False, config_only: bool = False
    ) -> tuple[PeftModel | None, PeftConfig] | None:
        """The model with its adapter and the adapter's configuration, or None if the adapter is not ours.

        Raises:
            ConfigError: a setting is unknown or has a value that is not allowed.
        """
        if cfg.adapter not in OUR_METHODS:
            return None
        config = adapter_config(cfg)
        if config_only:
            return None, config
        if cfg.lora_model_dir:
            adapted = PeftModel.from_pretrained(model, cfg.lora_model_dir, is_trainable=not inference)
        else:
            adapted = get_peft_model(model, config)
        return adapted, adapted.active_peft_config


def adapter_config(cfg: Any) -> PeftConfig:
    """The configuration that axolotl's file ``cfg`` describes."""
    info = get_method(cfg.adapter)
    settings = {ours: cfg[theirs] for theirs, ours in SAME_AS_FOR_LORA.items() if cfg.get(theirs)}
    own = dict(cfg.get("adapter_settings") or {})
    check_settings(info, own)
    if info.config is None:
        raise TypeError(f"the method {info.name!r} has no configuration")
    return info.config(task_type="CAUSAL_LM", **settings | own)
