"""The entry point of the ``genft`` command. It is no part of the package ``genft``, so that it can run before it.

``import genft`` registers the methods with peft, and that takes seconds: peft brings torch and transformers. A script
that imports genft wants this; ``genft --help``, ``genft list`` and ``genft report`` do not. So ``genft/__init__.py``
registers nothing if this module is loaded, and the commands that train, load or count adapters import ``genft.bridge``,
which registers the methods there and then.

The other ways that were considered: a hook that registers when peft is imported (peft is often imported half-way
through transformers' own import, when our methods cannot be imported yet), the environment, and ``sys.argv`` (both are
guesses, and wrong in a process that does several things). ``python -m genft`` works too; it imports peft first.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from genft.cli import app

    app()
