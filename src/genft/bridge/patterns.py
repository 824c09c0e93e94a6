"""Patterns from configurations: an adapter_config.json may be a stranger's, and its patterns may backtrack for ever."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from genft.errors import ConfigError

#: Settings of configurations (ours and peft's) whose value peft matches as a regular expression.
PATTERNS = ("target_modules", "exclude_modules")
#: Settings whose keys it matches.
KEY_PATTERNS = ("rank_pattern", "alpha_pattern")
#: Seconds of processor time that all patterns of a configuration may take on all names of a model.
SECONDS = 1
#: More characters than any sensible pattern has.
LONGEST = 10_000

_MATCH = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.fullmatch(pattern, name)
    print(flush=True)
"""


def check_patterns(settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse patterns that do not compile, or take longer than a second on the names of a model.

    Only a pattern with two repeats or more can take long. Such a one is tried in a process of its own, which can be
    ended: Python's engine cannot be interrupted within a match.

    Raises:
        ConfigError: naming the setting.
    """
    doubtful: list[tuple[str, str]] = []
    for setting, pattern in _patterns(settings):
        if len(pattern) > LONGEST:
            raise ConfigError(f"{setting}: {_short(pattern)} has {len(pattern)} characters; allowed: {LONGEST}")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as e:
            raise ConfigError(f"{setting}: {_short(pattern)} is not a regular expression ({e})") from None
        if len(re.findall(r"[*+{?]", pattern)) > 1:
            doubtful.append((setting, pattern))
    if not doubtful:
        return
    done = _matched_in_time([pattern for _, pattern in doubtful], list(names))
    if done < len(doubtful):
        setting, pattern = doubtful[done]
        raise ConfigError(
            f"{setting}: matching {_short(pattern)} with the names of this model takes more than {SECONDS} second; "
            "its repeats can be divided in too many ways"
        )


def _patterns(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(setting, pattern) as peft builds them from a configuration."""
    for setting in PATTERNS:
        if isinstance(value := settings.get(setting), str):
            yield setting, value
    layers = settings.get("layers_pattern")
    for layer in [layers] if isinstance(layers, str) else layers or ():
        yield "layers_pattern", rf".*\.{layer}\.(\d+)\..*"
    for setting in KEY_PATTERNS:
        yield from ((setting, rf"(.*\.)?({pattern})") for pattern in settings.get(setting) or ())


def _matched_in_time(patterns: list[str], names: list[str]) -> int:
    """How many of the patterns, from the first on, were matched with all names in the time allowed."""
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    tried = subprocess.run(command, input=json.dumps([patterns, names]), capture_output=True, text=True)
    return len(patterns) if tried.returncode == 0 else len(tried.stdout.splitlines())


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")
