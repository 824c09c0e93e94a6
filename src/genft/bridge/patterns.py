"""Checks the regular expressions of configurations: those of an untrusted adapter may backtrack forever."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from genft.errors import ConfigError

#: Settings (ours and peft's) whose value peft matches as a regular expression.
PATTERNS = ("target_modules", "exclude_modules")
#: Settings whose keys peft matches as regular expressions.
KEY_PATTERNS = ("rank_pattern", "alpha_pattern")
#: The CPU time, in seconds, that matching all patterns of a configuration with all names of a model may take.
SECONDS = 1
#: The most characters of a pattern; no sensible one is longer.
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
    """Refuse patterns that do not compile, or take more than a second to match with the names of a model.

    Only a pattern with two or more quantifiers can take long. Such patterns are tried in a separate process that can be
    killed, because Python's engine cannot be interrupted during a match.

    Raises:
        ConfigError: a pattern is refused; the message names the setting.
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
            "its quantifiers can match in too many ways"
        )


def _patterns(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(setting, pattern) pairs, as peft builds them from a configuration."""
    for setting in PATTERNS:
        if isinstance(value := settings.get(setting), str):
            yield setting, value
    layers = settings.get("layers_pattern")
    for layer in [layers] if isinstance(layers, str) else layers or ():
        yield "layers_pattern", rf".*\.{layer}\.(\d+)\..*"
    for setting in KEY_PATTERNS:
        yield from ((setting, rf"(.*\.)?({pattern})") for pattern in settings.get(setting) or ())


def _matched_in_time(patterns: list[str], names: list[str]) -> int:
    """The number of patterns, counted from the first, that were matched with all names within the time limit."""
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    tried = subprocess.run(command, input=json.dumps([patterns, names]), capture_output=True, text=True)
    return len(patterns) if tried.returncode == 0 else len(tried.stdout.splitlines())


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:79] + "…")
