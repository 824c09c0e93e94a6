"""The command line in this process, for tests."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from genft.cli import app


def call(*words: object) -> Result:
    """What the command printed and how it ended; an exception that is not an exit is raised."""
    result = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*words: object) -> str:
    """The output of a command that succeeds."""
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout
