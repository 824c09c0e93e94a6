"""conftest.py of the run: which of peft's tests concern our tuners, and two that need a word."""

import pytest

import genft

#: peft asserts here that a new adapter changes nothing. Tied factors cannot start at the identity (peft leaves its
#: own method PaRa, for the same reason, out of the same assertion).
NOT_IDENTITY = ("test_disable_adapters", "test_disable_adapters_with_merging")
#: The base is in half precision here, which VectorFit's lean form refuses.
HALF_BASE = (
    "test_adapter_dtype_autocast",
    "test_forward_bfloat16",
    "test_forward_bfloat16_no_autocast",
    "test_forward_float16",
    "test_forward_float16_no_autocast",
    "test_merge_layers_fp16",
)
#: peft asserts here that the model holds the very configuration object that it was given. An adapter of genft holds a
#: copy, so that one configuration can serve several models (tests/bridge/test_configurations.py).
SAME_OBJECT = ("test_from_pretrained_config_construction",)
#: peft loads adapters onto another, freshly drawn base model here, which genft otherwise refuses.
OTHER_BASE = (
    "test_loading_model_requires_grad_set_correctly",
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly",
)


def pytest_collection_modifyitems(config, items):
    """Keep the tests that run one of our cases: the others exercise peft's own tuners, some of them from the Hub."""
    ours = {genft.GenFTConfig, genft.BitFitConfig, genft.VectorFitConfig, genft.METHODS["spt_lora"].config}
    kept = []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("config_cls") not in ours:
            continue
        if item.originalname in NOT_IDENTITY and "tied" in params.get("test_name", ""):
            continue
        if item.originalname in SAME_OBJECT:
            continue
        if item.originalname in HALF_BASE and "lean" in params.get("test_name", ""):
            continue
        kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def _other_base(request):
    if request.node.originalname not in OTHER_BASE:
        yield
        return
    with genft.allow_other_base():
        yield
