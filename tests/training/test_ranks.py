"""One run on two processes (gloo, CPU): the same as on one, and only the first of them speaks and writes."""

import contextlib
import json
import os
import random
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from genft import ConfigError
from genft.cli import app
from genft.data import task_from_path
from genft.models.parameters import trained_state
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.spec import RunSpec
from genft.runs.store import Store, unpack
from genft.training import ranks
from genft.training.loop import Loop
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run_once
from saved_models import save_bert

#: float32; sums of a batch are taken in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
METHODS: dict[str, dict[str, Any]] = {
    "genft": {},
    # a bias of the keys changes nothing, so rounding alone would move it, and Adam by full steps
    "vectorfit": {"train_bias": False, "avf_start": 3, "avf_interval": 3, "avf_events": 3, "avf_top_k": 2},
    "adalora": {"tinit": 2, "tfinal": 5, "deltaT": 1, "init_r": 4, "target_r": 2},
}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout, which would be drawn differently on two processes."""
    folder = save_bert(tmp_path_factory.mktemp("models") / "steady")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plan(data: Path, model: Path, method: str, batch_size: int = 8) -> PreparedRun:
    training = {"epochs": 3, "batch_size": batch_size, "learning_rate": 5e-3}
    task = task_from_path(data)
    preset = Preset(name="none", source="")
    return prepare(
        build_spec(
            task, str(model), preset, settings=METHODS[method], training=training, method=method, limit_train=40
        ).spec
    )


def on_two(work: Callable[..., None], *args: Any) -> None:
    """Call ``work(*args)`` in two processes that know each other as torchrun's do."""
    port = _free_port()
    mp.start_processes(_join, (port, work, args), nprocs=2, start_method="fork")


def _free_port() -> int:
    """A port below those that the system gives to connections, which could take it before the processes listen."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("no port from 20000 to 30000 is free")


def _join(rank: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in values.items()}, MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the test's own process
    work(*args)
    torch.distributed.destroy_process_group()


def _run(specs: list[RunSpec], out: Path) -> None:
    predict = Loop.predict_arrays

    def keep(self: Loop, dataset: Any) -> Any:
        torch.save(trained_state(self.model), out / f"{ranks.rank()}-{self.args.run_name}.pt")
        return predict(self, dataset)

    Loop.predict_arrays = keep  # type: ignore[method-assign]
    for spec in specs:
        result = run_once(prepare(spec), Store(out))
        (out / f"{ranks.rank()}-{result.method}.json").write_text(result.model_dump_json())


def _die_in_step_8(spec: RunSpec, out: Path) -> None:
    step = Loop.training_step

    def dies(self: Loop, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 7:
            os._exit(0)
        return step(self, *args, **kwargs)

    Loop.training_step = dies  # type: ignore[method-assign]
    run_once(prepare(spec), Store(out))


def _command(args: list[str], out: Path) -> None:
    for number in (1, 2):
        log = os.open(out / f"{number}-{os.environ['RANK']}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    try:
        app(args)
    except SystemExit as e:
        if e.code:
            raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def same(first: Path, second: Path) -> None:
    expected = load_file(first / "adapter_model.safetensors")
    found = load_file(second / "adapter_model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in found.items():
        if name.endswith("_sketch"):  # its last two rows are hashes, of values that are close and not equal
            tensor, expected[name] = tensor[:8], expected[name][:8]
        torch.testing.assert_close(tensor, expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(tensor == 0, expected[name] == 0)  # AdaLoRA prunes the same


def test_two_processes_train_as_one(reviews: Path, steady: Path, tmp_path: Path) -> None:
    """Equal losses, scores, weights, frozen vectors and pruned ranks; equal weights on both processes."""
    plans = [plan(reviews, steady, method) for method in METHODS]
    one, two = Store(tmp_path / "one").open(), Store(tmp_path / "two").open()
    on_two(_run, [p.spec for p in plans], two.out)
    for planned in plans:
        alone, together = run_once(planned, one), two.get(planned.key)
        assert together is not None
        assert together.provenance.device.startswith("2 × ")
        for expected, found in zip(alone.history.epochs, together.history.epochs, strict=True):
            assert found == pytest.approx(expected, rel=1e-4)
        assert (unpack(together.predictions) == unpack(alone.predictions)).all()
        assert together.history.steps == alone.history.steps == 15
        same(one.out / alone.adapter, two.out / together.adapter)
        states = [torch.load(two.out / f"{rank}-{planned.name}.pt") for rank in (0, 1)]
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
        results = [
            Result.model_validate_json((two.out / f"{r}-{planned.spec.method}.json").read_text()) for r in (0, 1)
        ]
        assert results == [together, together]
    folders = [store.out / "adapters" / plans[1].name for store in (one, two)]
    histories = [json.loads((folder / "avf_history.json").read_text()) for folder in folders]
    events = [[(e["step"], e["frozen"]) for e in history["events"]] for history in histories]
    assert len(events[0]) == 3
    assert events[0] == events[1]


@pytest.mark.parametrize("method", ["genft", "adalora"])
def test_a_run_that_two_began_is_finished_by_one(method: str, reviews: Path, steady: Path, tmp_path: Path) -> None:
    planned = plan(reviews, steady, method)
    whole, parts = Store(tmp_path / "whole").open(), Store(tmp_path / "parts").open()
    on_two(_die_in_step_8, planned.spec, parts.out)
    assert {p.name for p in parts.checkpoints(planned.key).glob("*/rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    resumed, expected = run_once(planned, parts), run_once(planned, whole)
    assert (resumed.history.resumed_at, resumed.history.steps) == (5, expected.history.steps)
    same(whole.out / expected.adapter, parts.out / resumed.adapter)


def test_only_the_first_speaks_and_writes(reviews: Path, steady: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--model", str(steady), "--method", "linear", "--epochs", "1", "--out", str(out), "--json"]
    on_two(_command, ["train", str(reviews), *options], tmp_path)
    said = [(tmp_path / f"{number}-{rank}.txt").read_text() for rank in (0, 1) for number in (1, 2)]
    said = [re.sub(r"^\[Gloo\].*\n", "", text, flags=re.MULTILINE) for text in said]  # torch's own, up to 2.9
    assert json.loads(said[0])["method"] == "linear"
    assert "epoch   1" in said[1]
    assert said[2] == ""
    assert "epoch" not in said[3]  # torch may warn there
    assert {p.name for p in out.iterdir()} == {"results", "adapters", "checkpoints"}
    assert not list((out / "checkpoints").iterdir())
    assert len(list((out / "results").glob("*.json"))) == 1


def test_a_batch_that_cannot_be_shared_is_a_sentence(
    reviews: Path, steady: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    with pytest.raises(ConfigError, match="batch_size: 8 examples cannot be shared equally by 3 processes"):
        plan(reviews, steady, "genft")
    assert plan(reviews, steady, "genft", batch_size=9)
