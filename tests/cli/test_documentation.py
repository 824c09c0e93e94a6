"""The page of options says what the commands say."""

from pathlib import Path

from genft.cli.documentation import page


def test_the_page_is_made_from_the_commands() -> None:
    """To renew it: ``python -m genft.cli.documentation > docs/command_line.md``."""
    file = Path(__file__).parents[2] / "docs" / "command_line.md"
    assert file.read_text(encoding="utf-8") == page()
