"""Specs: what the words of a command line become, where each value came from, and which runs are equal."""

import pytest

from genft import ConfigError
from genft.api.settings import default_settings, parse_settings, plain
from genft.data import Task
from genft.methods import METHODS, get_method
from genft.presets import Preset, load_preset
from genft.runs.request import Request, build_spec
from genft.runs.settings import Training
from genft.runs.spec import RunSpec

TASK = Task(name="t", kind="text", reader="")
NO_PRESET = Preset(name="none", source="")


def build(preset: Preset = NO_PRESET, **said: object) -> Request:
    return build_spec(TASK, "a-model", preset, **said)  # type: ignore[arg-type]


def key(spec: RunSpec, model: str, data: str) -> str:
    return spec.key(get_method(spec.method), model, data)


@pytest.mark.parametrize(
    ("method", "pair", "value"),
    [
        ("genft", "shared_dim=8", 8),
        ("genft", "shared-dim= 8 ", 8),
        ("genft", "w0_ratio=1e-2", 0.01),
        ("genft", "row_stage=false", False),
        ("genft", "init_weights=paper", "paper"),
        ("genft", "init_weights=False", False),
        ("genft", "target_modules=query,value", ["query", "value"]),
        ("genft", "target_modules=all-linear", "all-linear"),
        ("genft", "target_modules=none", None),
        ("genft", "layers_to_transform=0,2", [0, 2]),
        ("genft", 'target_slices={"qkv": ["q", "v"]}', {"qkv": ["q", "v"]}),
        ("lora", "r=4", 4),
        ("lora", "bias=none", "none"),
        ("lora", "use_rslora=true", True),
        ("lora", 'rank_pattern={"query": 2}', {"query": 2}),
        ("ia3", "feedforward_modules=query,key", ["query", "key"]),
    ],
)
def test_a_setting_gets_the_type_of_its_field(method: str, pair: str, value: object) -> None:
    (parsed,) = parse_settings(get_method(method), [pair]).values()
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("method", "pairs", "problems"),
    [
        ("genft", ["shared_dim"], ["--set shared_dim: must be key=value"]),
        ("genft", ["shared_dim=2.5"], ["--set shared_dim: '2.5' is not a whole number"]),
        ("genft", ["scaling=big"], ["--set scaling: 'big' is not a number"]),
        ("genft", ["row_stage=maybe"], ["--set row_stage: 'maybe' is not true or false"]),
        ("linear", ["r=4"], ["--set r: the method 'linear' has no settings"]),
        (
            "lora",
            ["bias=nun"],
            ["--set bias: value: 'nun' is not known; allowed: none, all, lora_only; nearest: 'none'"],
        ),
        (
            "genft",
            ["shred_dim=3", "batch_size=2"],
            [
                "--set shred_dim: the method 'genft' has no such setting; nearest: 'shared_dim'; "
                "all: `genft list methods genft`",
                "--set batch_size: belongs to training, not to the method 'genft'; use --batch-size",
            ],
        ),
    ],
)
def test_settings_that_cannot_be(method: str, pairs: list[str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_settings(get_method(method), pairs, Training.model_fields)
    assert error.value.problems == problems


@pytest.mark.parametrize("method", METHODS)
def test_every_default_can_be_written_on_the_command_line(method: str) -> None:
    info = get_method(method)
    for key, value in default_settings(info).items():
        if isinstance(value, (bool, int, float, str)):
            assert parse_settings(info, [f"{key}={plain(value)}"]) == {key: value}


def test_every_value_knows_its_origin() -> None:
    preset = Preset.model_validate(
        {
            "name": "p",
            "source": "",
            "training": {"epochs": 5, "batch_size": 4},
            "methods": {"genft": {"training": {"epochs": 6}, "settings": {"shared_dim": 8, "dropout": 0.1}}},
        }
    )
    request = build(preset, settings={"dropout": 0.2}, training={"batch_size": 2}, seed=3)
    assert request.training["epochs"] == (6, "preset p, for genft")
    assert request.training["batch_size"] == (2, "command line")
    assert request.training["schedule"] == ("linear", "default")
    assert request.settings["shared_dim"] == (8, "preset p, for genft")
    assert request.settings["dropout"] == (0.2, "command line")
    assert request.settings["scaling"] == (0.05, "default")
    assert request.run["seed"] == (3, "command line")
    assert request.run["protocol"] == ("holdout", "task t")
    assert request.spec.settings == {"shared_dim": 8, "dropout": 0.2}
    assert (request.spec.training.epochs, request.spec.training.batch_size, request.spec.seed) == (6, 2, 3)


def test_a_preset_with_an_unknown_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training: unknown key 'epoch'; .*nearest: 'epochs'"):
        build(Preset(name="p", source="", training={"epoch": 5}))


def test_the_problems_of_training_are_all_named() -> None:
    with pytest.raises(ConfigError) as error:
        build(training={"epochs": 0, "schedule": "lin", "learning_rate": -1})
    assert len(error.value.problems) == 3


def test_keys_stay_what_they_were() -> None:
    """These were computed by genft 0.1; a key that changes hides every stored result."""
    paper = {"form": "paper", "scope": "attention", "shared_dim": 24, "specific_dim": 2}  # what was GenFT's default
    assert key(build(settings=paper).spec, "m", "d") == "7a430a22e5cb8909"
    limited = build(method="vectorfit", settings={"train_bias": False}, training={"epochs": 3}, seed=1, limit_train=10)
    assert key(limited.spec, "m", "d") == "b6daf7ec237ac4e5"
    ratings = Task(name="r", kind="text", reader="", regression=True, metric="pearson", text_columns=("a", "b"))
    preset = load_preset("default")
    linear = build_spec(ratings, "a-model", preset, method="linear", protocol="validation")
    assert key(linear.spec, "m", "d") == "abc5366830c25301"


def test_equal_runs_have_equal_keys() -> None:
    first = key(build().spec, "m", "d")
    default = default_settings(get_method("genft"))["shared_dim"]
    assert key(build(settings={"shared_dim": default}).spec, "m", "d") == first
    assert key(build_spec(TASK, "another/path", NO_PRESET).spec, "m", "d") == first
    others = [
        key(build(settings={"shared_dim": default + 1}).spec, "m", "d"),
        key(build(training={"epochs": 3}).spec, "m", "d"),
        key(build(seed=1).spec, "m", "d"),
        key(build(method="lora").spec, "m", "d"),
        key(build(limit_train=10).spec, "m", "d"),
        key(build().spec, "m2", "d"),
        key(build().spec, "m", "d2"),
        key(build_spec(TASK.model_copy(update={"max_length": 5}), "a-model", NO_PRESET).spec, "m", "d"),
    ]
    assert len({first, *others}) == len(others) + 1
