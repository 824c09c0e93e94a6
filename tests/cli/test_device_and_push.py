"""--device hides the other devices; --push-to-hub uploads the adapter with its card, and refuses before any work."""

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from genft import hub
from genft.cli import app
from genft.cli.device import DeviceOptions
from genft.errors import ConfigError


def train(reviews: Path, bert: Path, out: Path, *words: object) -> Result:
    quick = ("--epochs", 1, "--out", out)
    return CliRunner(env={"COLUMNS": "400"}).invoke(
        app, [str(w) for w in ("train", reviews, "-m", bert, *quick, *words)]
    )


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    DeviceOptions(device="cuda:1").use()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(ConfigError, match="cuda:1 is none of the GPUs"):
        DeviceOptions(device="cuda:1").use()
    DeviceOptions(device="cpu").use()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["ACCELERATE_USE_CPU"]) == ("", "true")
    with pytest.raises(ConfigError, match="received 'gpu'; allowed: cpu, cuda, cuda:N"):
        DeviceOptions(device="gpu").use()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda is not available"):
        DeviceOptions(device="cuda").use()


class FakeHub:
    calls: list[dict[str, Any]]

    def whoami(self) -> None: ...

    def create_repo(self, repo: str, **options: Any) -> Any:
        self.calls.append({"repo": repo, **options})
        return type("Url", (str,), {"repo_id": repo})(f"https://huggingface.co/{repo}")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(options)


def test_push(reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    refused = train(reviews, bert, tmp_path, "--push-to-hub", "me/adapter")
    assert refused.exit_code == 2
    assert "--push-to-hub: " in refused.stderr
    assert not list(tmp_path.iterdir())
    FakeHub.calls = []
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    assert "is not the name of a repository" in train(reviews, bert, tmp_path, "--push-to-hub", "a/b/c").stderr
    done = train(reviews, bert, tmp_path, "--push-to-hub", "me/adapter", "--licence", "apache-2.0")
    assert done.exit_code == 0, done.output
    assert "Pushed to https://huggingface.co/me/adapter (private" in done.stdout
    made, uploaded = FakeHub.calls
    assert made == {"repo": "me/adapter", "private": True, "exist_ok": True}
    folder = Path(uploaded["folder_path"])
    assert uploaded["ignore_patterns"] == ["genft_run.toml"]
    assert (folder / "genft_run.toml").is_file()
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"
