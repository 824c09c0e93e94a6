"""SIGKILL `genft train` and `genft bench` at random moments: what is left must be whole, and resume to the same result.

    python benchmarks/kills.py train --model minilm-l6 --task bbc-news --kills 50
    python benchmarks/kills.py bench --model minilm-l6 --task bbc-news --kills 50

A command is started again until it ends by itself, or until it has been killed ``--kills`` times. The whole process
group is killed, so that no part of a run outlives it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from genft.adapters import saved as artifact
from genft.runs.measured import Result
from genft.runs.store import Store

METHODS = "genft,lora,linear"


def command(kind: str, model: str, task: str, out: Path) -> list[str]:
    what = ["--method", "genft"] if kind == "train" else ["--methods", METHODS, "--seeds", "0,1"]
    limits = ["--limit-train", "64", "--limit-eval", "32", "--epochs", "6", "--out", str(out)]
    return [sys.executable, "-m", "genft", kind, task, "--model", model, *what, *limits]


def run(words: list[str], seconds: float | None) -> bool:
    """Whether the command ended by itself within ``seconds``; otherwise it was killed."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        if code := process.wait(seconds):
            raise SystemExit(f"{' '.join(words)}: ended with {code}")
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def check(store: Store, finished: dict[str, str]) -> dict[str, str]:
    """The finished runs and when they started. Every visible adapter must load; no run may be lost or repeated."""
    for folder in (store.out / "adapters").glob("[!.]*"):
        artifact.load(folder)
    now = {result.key: result.provenance.started for result in store.open()}
    assert finished.items() <= now.items(), "a finished run was lost or repeated"
    return now


def weights(out: Path, result: Result) -> dict[str, torch.Tensor]:
    return load_file(next((out / result.adapter).glob("*.safetensors")))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kind", choices=("train", "bench"))
    options.add_argument("--model", required=True)
    options.add_argument("--task", required=True)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--longest", type=float, default=60, help="the most seconds before a kill")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    draw, finished, kills = random.Random(given.seed), dict[str, str](), 0
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "killed"
        run(command(given.kind, given.model, given.task, whole), None)
        while kills < given.kills:
            if run(command(given.kind, given.model, given.task, out), draw.uniform(0, given.longest)):
                check(Store(out), finished)
                finished, out = {}, out.with_name(f"killed-{kills}")  # start over
            else:
                kills += 1
                finished = check(Store(out), finished)
            print(f"{kills} kills, {len(finished)} runs finished", flush=True)
        run(command(given.kind, given.model, given.task, out), None)
        check(Store(out), finished)
        for result in Store(whole):
            other = Store(out).get(result.key)
            assert other is not None
            expected, resumed = weights(whole, result), weights(out, other)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items()), result.label
    print(f"{kills} kills: nothing lost, repeated or half-written; the final weights are equal")


if __name__ == "__main__":
    main()
