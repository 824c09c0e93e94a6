"""The entry point of the ``genft`` command. It lives outside the package ``genft``, so that it can run first.

``import genft`` registers the methods with peft. That takes seconds, because peft imports torch and transformers. A
script that imports genft needs this; ``genft --help``, ``genft list`` and ``genft report`` do not. So
``genft/__init__.py`` registers nothing if this module is loaded, and the commands that train, load or count adapters
import ``genft.bridge``, which registers the methods.

Alternatives considered: a hook that registers when peft is imported (peft is often imported half-way through
transformers' own import, when our methods cannot be imported yet), an environment variable, and ``sys.argv`` (both are
guesses, and wrong in a process that does several things). ``python -m genft`` also works; it imports peft first.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

#: What the command line, readers of data and reports need in addition: the extra ``cli``.
NEEDED = ("typer", "rich", "pandas", "datasets", "sklearn", "scipy")


def main() -> None:
    """Run the command line."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.exit(f"error: the command line needs {', '.join(missing)}, not installed here: pip install 'genft[cli]'")
    from genft.cli import app

    app()
