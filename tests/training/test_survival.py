"""What a full disk, a kill, a lost file and a second Ctrl-C leave behind: a sentence, and nothing half-written."""

import contextlib
import dataclasses
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genft import ConfigError, DataError, TrainingError
from genft.adapters import saved as artifact
from genft.data import task_from_path
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.sweeps.processes import RunProcess, run_in_process
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run, run_once


def plan(data: Path, model: Path, method: str = "genft", **training: Any) -> PreparedRun:
    training = {"epochs": 4, "batch_size": 8, "learning_rate": 2e-2, **training}
    preset = Preset(name="none", source="")
    return prepare(build_spec(task_from_path(data), str(model), preset, training=training, method=method).spec)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a disk with no more room: a file cannot grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same_end(store: Store, result: Result, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(store.out / result.adapter / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("method", ["genft", "adalora"])
def test_kills_at_random_moments(method: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    """SIGKILL three times; then the run ends with the weights of one that nobody killed, and leaves nothing else."""
    planned = plan(reviews, bert, method)
    whole, store = Store(tmp_path / "whole").open(), Store(tmp_path / "killed").open()
    uninterrupted = run(planned, whole)
    expected = load_file(whole.out / uninterrupted.adapter / "adapter_model.safetensors")
    draw = random.Random(0)
    for _ in range(3):
        process = RunProcess(planned.spec, store.out, threads=1)
        lasts = draw.randrange(1, 40)
        for _ in range(lasts):  # messages, one per step and evaluation
            if isinstance(process.receive(), Result):
                break
        time.sleep(draw.random() / 100)
        assert process.process.pid is not None
        os.kill(process.process.pid, signal.SIGKILL)
        process.end()
        for folder in (store.out / "adapters").glob("[!.]*"):
            assert artifact.load(folder)
        if store.get(planned.key) is not None:
            break
    resumed = run_once(planned, Store(store.out).open())
    assert list(store) == [resumed]
    same_end(store, resumed, expected)
    assert {p.name for p in store.out.iterdir()} == {"results", "adapters", "checkpoints"}
    assert not list((store.out / "checkpoints").iterdir())
    assert [p.name for p in (store.out / "adapters").iterdir()] == [planned.name]
    assert run_once(planned, store) == resumed  # not repeated


def test_a_full_disk_in_training_is_a_sentence_and_the_run_goes_on_later(
    reviews: Path, bert: Path, tmp_path: Path
) -> None:
    planned, store = plan(reviews, bert), Store(tmp_path).open()
    with (
        files_up_to(4000),
        pytest.raises(TrainingError, match=r"the checkpoint of step 6 cannot be written \(.*\); there is no earlier"),
    ):
        run_once(planned, store)
    assert not list(store.checkpoints(planned.key).glob("checkpoint-*"))
    assert run_once(planned, store).history.steps == 24


def test_a_full_disk_at_the_end_loses_no_training(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, store = plan(reviews, bert), Store(tmp_path).open()
    honest = artifact.save

    def full(*args: Any) -> int:
        with files_up_to(2000):
            return honest(*args)

    monkeypatch.setattr(artifact, "save", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(.*\)"):
        run_once(planned, store)
    monkeypatch.undo()
    assert store.get(planned.key) is None
    assert list((store.out / "adapters").iterdir()) == []
    result = run_once(planned, store)
    assert result.history.resumed_at == 24  # nothing was trained again


def test_a_result_that_cannot_be_written_is_a_sentence(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, store = plan(reviews, bert, "linear", epochs=1), Store(tmp_path).open()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConfigError, match=r"\.json: cannot be written \(No space left on device\)"):
        run_once(planned, store)
    monkeypatch.undo()
    assert {p.suffix for p in store.results.iterdir()} <= {".lock"}
    assert run_once(planned, store)


def test_memory_that_runs_out_ends_one_run_only(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """A size that no machine has: torch's error comes back as a sentence from the process of the run."""
    spec = plan(reviews, bert, "lora").spec.model_copy(update={"settings": {"r": 10**13}})
    with pytest.raises(TrainingError, match=r"RuntimeError: .*memory"):
        run_in_process(spec, tmp_path)


def test_data_that_disappear_are_a_sentence(reviews: Path, bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "reviews.csv"
    copy.write_bytes(reviews.read_bytes())
    spec = plan(copy, bert).spec
    copy.unlink()
    with pytest.raises((DataError, ConfigError), match=r"reviews\.csv"):
        run_in_process(spec, tmp_path / "out")


def test_an_image_that_disappears_is_a_sentence(timm_vit: Path, tmp_path: Path) -> None:
    from saved_models import save_images

    folder = save_images(tmp_path / "photos")
    planned = plan(folder, timm_vit, "linear")
    for path in folder.glob("dark/*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"dark/\d+\.png"):
        run(planned, Store(tmp_path / "out").open())


def listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what it puts in the background without it


def test_ctrl_c_twice(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """The first ends the command with a sentence, the second changes nothing; the same command then finishes."""
    out = tmp_path / "out"
    options = ["--model", str(bert), "--methods", "linear", "--seeds", "0", "--epochs", "2000", "--out", str(out)]
    command = [sys.executable, "-m", "genft", "bench", str(_suite(tmp_path, reviews)), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **streams, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoints/*/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert "interrupted: finished runs are kept" in said
    assert process.returncode == 130
    assert Store(out).open().failed() == []
    assert list(out.glob("checkpoints/*/checkpoint-*/trainer_state.json"))


def _suite(folder: Path, data: Path) -> Path:
    path = folder / "suite.toml"
    path.write_text(
        f'suite = "mine"\n[[tasks]]\nname = "reviews"\nkind = "text"\nreader = "files"\n'
        f'files = {{ train = "{data}" }}\ntext_columns = ["text"]\nlabel_column = "label"\n'
    )
    return path


def stopped_at(step: int, planned: PreparedRun, store: Store) -> Path:
    """The checkpoint of a run that is interrupted there."""
    checkpoint = store.checkpoints(planned.key) / f"checkpoint-{step}"

    def stop(event: object) -> None:
        if (checkpoint / "trainer_state.json").is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planned, store, stop)
    return checkpoint


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("optimizer.pt", "bytes"),
        ("rng_state.pth", "cut"),
        ("scheduler.pt", "gone"),
        ("adapter_model.safetensors", "cut"),
    ],
)
def test_a_damaged_file_in_the_newest_checkpoint(
    file: str, damage: str, reviews: Path, bert: Path, tmp_path: Path
) -> None:
    """The run resumes from the one before it, and ends as if nothing had happened."""
    planned, store = plan(reviews, bert), Store(tmp_path / "broken").open()
    expected = run(planned, Store(tmp_path / "whole").open())
    weights = load_file(tmp_path / "whole" / expected.adapter / "adapter_model.safetensors")

    newest = stopped_at(18, planned, store) / file
    content = bytearray(newest.read_bytes())
    content[len(content) // 2 - 100 : len(content) // 2] = bytes(100)
    newest.unlink() if damage == "gone" else newest.write_bytes(content if damage == "bytes" else content[:-40])
    with pytest.warns(UserWarning, match=r"is damaged or missing, so the run resumes from before checkpoint-18"):
        resumed = run_once(planned, store)
    assert resumed.history.resumed_at == 12
    same_end(store, resumed, weights)


def test_an_older_checkpoint_ends_as_it_was_begun(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until fused steps were used, checkpoints had the state of AdamW's plain form, whose roundings are others."""
    planned, store, now = plan(reviews, bert), Store(tmp_path / "old").open(), Store(tmp_path / "now").open()
    with monkeypatch.context() as before:
        before.setattr("genft.training.loop.has_fused_steps", lambda model: False)
        whole = Store(tmp_path / "whole").open()
        expected = load_file(whole.out / run(planned, whole).adapter / "adapter_model.safetensors")
        checkpoint = stopped_at(12, planned, store)
    groups = [torch.load(at / "optimizer.pt")["param_groups"] for at in (checkpoint, stopped_at(6, planned, now))]
    assert [{group["fused"] for group in of_run} for of_run in groups] == [{None}, {True}]
    resumed = run_once(planned, store)
    assert resumed.history.resumed_at == 12
    same_end(store, resumed, expected)


def test_names_of_240_letters(reviews: Path, bert: Path, tmp_path: Path) -> None:
    long = tmp_path / f"{'r' * 240}.csv"
    long.symlink_to(reviews)
    planned, store = plan(long, bert, epochs=1), Store(tmp_path / "out").open()
    result = run_once(planned, store)
    assert artifact.load(store.out / result.adapter)
    assert len(planned.name) < 200


def test_runs_whose_keys_begin_alike_have_folders_of_their_own(reviews: Path, bert: Path) -> None:
    planned = plan(reviews, bert)
    twin = dataclasses.replace(planned, key=planned.key[:15] + ("0" if planned.key[15] != "0" else "1"))
    assert planned.key[:6] == twin.key[:6]
    assert planned.name != twin.name
