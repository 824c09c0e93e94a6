"""Error types, and the common form of messages to the user.

A message states the place, what was received, what is allowed, and the nearest valid name:

    target_modules: no linear weight matches 'qurey' in BertModel; nearest: 'query'
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def first_line(error: BaseException, otherwise: str = "no reason given") -> str:
    """The first line of another library's error, to quote in one of our messages."""
    return (str(error).splitlines() or [otherwise])[0]


class GenFTError(Exception):
    """Base class of every error that genft raises on purpose; the command line prints them without a traceback."""


class ConfigError(GenFTError, ValueError):
    """One or more settings cannot be used. ``problems`` holds one sentence per setting."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


class TargetError(ConfigError):
    """``target_modules`` or ``target_slices`` does not name weights that can be adapted."""


class DataError(GenFTError, ValueError):
    """A data file, a column, a label or an image cannot be used."""


class AdapterFileError(GenFTError, ValueError):
    """A saved adapter is damaged or incomplete, or contains foreign content."""


class BaseMismatchError(GenFTError, ValueError):
    """An adapter is being loaded onto another base model than the one it was trained on."""


class MergeError(GenFTError, NotImplementedError):
    """This adapter, or this base weight, cannot be merged."""


class TrainingError(GenFTError, RuntimeError):
    """Training had to stop, for example because the loss became NaN."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to ``name``, or None if nothing is close."""
    by_lower = {str(a).lower(): str(a) for a in allowed}
    closest = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[closest[0]] if closest else None


def not_one_of(where: str, received: object, allowed: Iterable[str], *, what: str = "is not known") -> str:
    """``where: 'received' is not known; allowed: a, b, c; nearest: 'b'``."""
    names = [str(a) for a in allowed]
    close = nearest(str(received), names)
    listed = ", ".join(names) if len(names) <= 40 else ", ".join(names[:40]) + ", …"
    return f"{where}: {received!r} {what}; allowed: {listed}" + (f"; nearest: {close!r}" if close else "")


def visible(text: str) -> str:
    """``text`` on one line, with control characters (terminal escapes, line ends) in the form that ``repr`` shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
