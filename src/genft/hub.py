"""The Hugging Face Hub, contacted once and with a short timeout.

``transformers`` retries an unreachable Hub for about half a minute per file. The functions here first check whether the
Hub answers at all, and otherwise use the local cache. They return a folder on this machine; nothing later needs the
network.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, constants, snapshot_download, utils
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from genft.errors import ConfigError, first_line

#: What a model needs besides its weights, without the other frameworks' copies that many repositories carry.
_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors"]
_WAIT_SECONDS = 5.0


@functools.cache
def reachable() -> bool:
    """Whether the Hub answers within five seconds (never if HF_HUB_OFFLINE is set)."""
    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            utils.get_session().head(constants.ENDPOINT, timeout=_WAIT_SECONDS)
            answered.set()
        except Exception:  # whatever goes wrong, the Hub is not reachable
            return

    # In a thread, because no timeout covers a name lookup that hangs.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    return answered.is_set()


def fetch_model(repo: str) -> Path:
    """The local folder of the Hub model ``repo``, named by its commit; downloaded if it is not in the cache.

    Raises:
        ConfigError: the model does not exist, may not be read, or is not in the cache while the Hub is unreachable.
    """
    online = reachable()
    try:
        folder = Path(snapshot_download(repo, allow_patterns=_FILES, local_files_only=not online))
        if online and not any(folder.glob("*.safetensors")):  # a repository from before safetensors
            snapshot_download(repo, allow_patterns=["pytorch_model*.bin"])
    except GatedRepoError:
        raise ConfigError(
            f"model: {repo!r} is gated: accept its terms on https://huggingface.co/{repo}, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"model: {repo!r} is not on the Hugging Face Hub, or needs `hf auth login`; "
            "packaged models: `genft list models`"
        ) from None
    except LocalEntryNotFoundError:
        raise ConfigError(
            f"model: {repo!r} is not in the local cache ({constants.HF_HUB_CACHE}) and cannot be fetched: "
            f"{_why_unreachable()}; on a connected machine run `hf download {repo}`, copy the folder here and pass "
            "its path as the model"
        ) from None
    except HfHubHTTPError as e:
        raise ConfigError(f"model: {repo!r} cannot be fetched from the Hub: {first_line(e)}") from None
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model: {repo!r} has no config.json: it is not a transformers or timm model")
    return folder


def fetch_data(repo: str, patterns: Sequence[str] | None = None) -> Path:
    """The local folder of the Hub data set ``repo``; files that match and are not in the cache are downloaded.

    Args:
        repo: its id on the Hub.
        patterns: glob patterns of the files to fetch, such as ``data/*.parquet``; None for all.

    Raises:
        ConfigError: it does not exist, may not be read, or is not in the cache while the Hub is unreachable.
    """
    online = reachable()
    wanted = list(patterns) if patterns else None
    try:
        folder = Path(snapshot_download(repo, repo_type="dataset", allow_patterns=wanted, local_files_only=not online))
    except LocalEntryNotFoundError:
        folder = None
    except HfHubHTTPError as e:
        raise ConfigError(f"the data set {repo!r} cannot be fetched from the Hub: {first_line(e)}") from None
    if folder is None or not any(any(folder.glob(pattern)) for pattern in wanted or ("*",)):
        why = f"the Hub's copy of {repo!r} has none of {wanted}" if online else _why_unreachable()
        raise ConfigError(f"the data set {repo!r} is not in the local cache and cannot be fetched: {why}")
    return folder


def check_push(repo: str) -> None:
    """Refuse, before any work, a push that cannot succeed.

    Raises:
        ConfigError: the name cannot be one, the Hub does not answer, or nobody is logged in.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise ConfigError(f"--push-to-hub: {repo!r} is not the name of a repository; allowed: OWNER/NAME")
    if not reachable():
        raise ConfigError(f"--push-to-hub: {_why_unreachable()}")
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError) as e:  # a missing token is an OSError
        raise ConfigError(f"--push-to-hub: you are not logged in ({first_line(e)}); run `hf auth login`") from None


def push_adapter(folder: Path, repo: str, *, private: bool, licence: str | None) -> str:
    """Upload a saved adapter, without the file that repeats its run, since that names places of this machine.

    Args:
        folder: the adapter's folder, whose card receives the licence.
        repo: the repository, made if it does not exist.
        private: whether a new one is private.
        licence: its identifier on the Hub, or None.

    Returns:
        The repository's address.

    Raises:
        ConfigError: the Hub refuses.
    """
    if licence:
        card = ModelCard.load(folder / "README.md")
        card.data.license = licence
        card.save(folder / "README.md")
    api = HfApi()
    try:
        place = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=place.repo_id, folder_path=folder, ignore_patterns=["genft_run.toml"])
    except (HfHubHTTPError, OSError) as e:
        raise ConfigError(
            f"--push-to-hub: {repo}: the Hub refuses ({first_line(e)}); the adapter is in {folder}"
        ) from None
    return str(place)


def _why_unreachable() -> str:
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
