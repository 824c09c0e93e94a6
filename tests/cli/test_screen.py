"""Names and texts cannot steer the terminal, whatever prints them."""

import io
import warnings
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from cli.test_cli import ok
from genft.cli.screen import Screen
from genft.sweeps.processes import be_quiet

HOSTILE = "\x1b[2J\x07\x9b31m\u202egpj"


@pytest.mark.parametrize("form", ["text", "table", "grid of texts"])
def test_control_characters_are_shown_as_escapes(form: str) -> None:
    screen = Screen(file=io.StringIO(), width=80, color_system=None)
    shown = Table(HOSTILE, "wide enough for what the escapes need")
    shown.add_row(HOSTILE, "x")
    grid = Table.grid()
    grid.add_row(Text(HOSTILE), "x")
    screen.print({"text": HOSTILE, "table": shown, "grid of texts": grid}[form], markup=False)
    written = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\\x1b" in written
    assert not set(HOSTILE[:1] + "\x07\x9b\u202e") & set(written)


def test_text_of_other_languages_stays() -> None:
    screen = Screen(file=io.StringIO(), width=80, color_system=None)
    screen.print("東京\u3000大阪\tZürich\u00a0👩\u200d🔬\nso")
    assert "東京\u3000大阪" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert "Zürich\u00a0👩\u200d🔬\nso" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_warnings_are_lines_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    be_quiet()
    assert warnings.formatwarning(f"a{HOSTILE[:4]}\nb", UserWarning, "", 1) == "warning: a\\x1b[2J\nwarning: b\n"


def test_classes_of_a_file_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"row {k},{('x', HOSTILE)[k % 2]}\n" for k in range(40)), encoding="utf-8")
    shown = ok("data", "check", path)
    assert "\\x1b[2J" in shown
    assert "\x1b" not in shown
