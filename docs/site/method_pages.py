"""One page per registered method, as JSON on stdout, for `hooks.py`, which runs this when the site is built.

Everything comes from the registry: the formula from the docstring of the method's file, the settings from what
`genft list methods NAME --json` prints, the rate from the presets, and the notes from docs/papers.md. Nothing about a
single method is written here.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import genft
from genft.api.config import AdapterConfig
from genft.cli import app
from genft.methods import METHODS, MethodInfo
from genft.presets import Values, load_preset

PAPERS = Path(__file__).parents[1] / "papers.md"
FAMILIES = {
    "weight": "Weight methods",
    "block": "Block methods",
    "peft": "From peft",
    "baseline": "Baselines",
}
ABOUT_FAMILIES = {
    "weight": "change weights (W0 + ΔW) or biases, so that the result can be merged into the base model.",
    "block": "add computations inside a transformer block; they cannot be merged.",
    "peft": "are peft's own tuners, unchanged; genft adds presets and what they need of a training run.",
    "baseline": "need no adapter.",
}


def site() -> dict[str, Any]:
    """``families``: title → paths of its pages; ``pages``: path → Markdown."""
    listed = {row["name"]: row for row in _json("list", "methods", "--json")}
    made = {f"methods/{name}.md": page(METHODS[name], row) for name, row in listed.items()}
    families = {
        title: [f"methods/{name}.md" for name, row in listed.items() if row["family"] == family]
        for family, title in FAMILIES.items()
    }
    return {"families": families, "pages": {"methods/index.md": overview(listed), **made}}


def overview(listed: Mapping[str, Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(model for row in listed.values() for model in row["parameters"]))
    lines = [
        "# Methods\n",
        "These pages are generated from the registry, which `genft list methods` prints too. "
        "Counts are trained parameters with the default settings, without the head.\n",
    ]
    for family, title in FAMILIES.items():
        lines += [f"## {title}\n", f"{title} {ABOUT_FAMILIES[family]}\n"]
        rows = [
            [
                f"[`{name}`]({name}.md)",
                row["trains"],
                "yes" if row["mergeable"] else "no",
                *(_count(row["parameters"].get(model)) for model in models),
            ]
            for name, row in listed.items()
            if row["family"] == family
        ]
        lines.append(table(("method", "trains", "merges", *models), rows, numbers=len(models)))
    lines.append("Any other method of peft runs as `peft:NAME`, for example `--method peft:RANDLORA`.\n")
    return "\n".join(lines)


def page(info: MethodInfo, row: Mapping[str, Any]) -> str:
    return "\n".join(
        part
        for part in (
            f"# {info.name}\n\nTrains {info.trains}.\n",
            facts(info, row),
            formula(info),
            example(info),
            learning_rates(info),
            settings(info),
            notes(info),
        )
        if part
    )


def facts(info: MethodInfo, row: Mapping[str, Any]) -> str:
    rows = [
        ("Paper", row["paper"] if row["paper"] != "-" else "–"),
        ("Implemented by", row["origin"]),
        ("Inputs", " and ".join(f"{kind}s" for kind in row["kinds"])),
        ("Merges into the base weights", "yes" if row["mergeable"] else "no"),
    ]
    if info.config is not None and info.method is not None:
        rows.insert(3, ("Starts at the pretrained function", "exactly" if info.config.starts_pretrained else "no"))
    rows += [
        (f"Trained parameters on {model}, with default settings, without the head", _count(count))
        for model, count in row["parameters"].items()
    ]
    return "".join(f"- **{name}:** {value}\n" for name, value in rows)


def formula(info: MethodInfo) -> str:
    if info.method is None:
        if info.config is None:
            return ""
        name = next(c.__name__ for c in info.config.__mro__ if c.__module__.startswith("peft."))
        return f"## Formula\n\npeft's own tuner, configured by `{name}`; the formula is that of the paper.\n"
    described = inspect.getdoc(sys.modules[info.method.__module__]) or ""
    return f"## Formula\n\n{markdown(described)}\n\nThis method: {markdown(inspect.getdoc(info.method) or '')}\n"


def example(info: MethodInfo) -> str:
    text = "text" in info.kinds
    task = "bbc-news --model minilm-l6" if text else "photos/ --model facebook/dinov2-small"
    command = f"```console\n$ genft train {task} --method {info.name}\n```\n"
    if info.config is None:
        return f"## Example\n\n{command}"
    values = {**({"task_type": "SEQ_CLS"} if text else {}), **info.defaults}
    arguments = ", ".join(f"{key}={_literal(value)}" for key, value in values.items())
    class_name, peft_names = info.config.__name__, "get_peft_model"
    if info.config.__module__.startswith("peft."):
        opening, config, peft_names = "", class_name, f"{class_name}, get_peft_model"
    elif class_name in genft.__all__:
        opening, config = f"from genft import {class_name}\n", class_name
    else:
        opening, config = "import genft\n", f'genft.get_method("{info.name}").config'
    code = f"{opening}from peft import {peft_names}\n\nconfig = {config}({arguments})\n"
    return f"## Example\n\n{command}\n```python\n{code}model = get_peft_model(model, config)\n```\n"


def learning_rates(info: MethodInfo) -> str:
    rows = []
    for name in ("default", "paper"):
        preset = load_preset(name)
        if info.name in preset.methods:
            values = preset.methods[info.name]
            rows.append((f"`--preset {name}`", _values(values), values.source or preset.source))
        rows += [
            (f"`--preset {name}`, {t.benchmark}", f"a row for each of {len(t.tasks)} tasks", t.source)
            for t in preset.tables
            if t.method == info.name
        ]
    if not rows:
        return ""
    return "## Hyper-parameters\n\n" + table(("preset", "values", "source"), rows)


def settings(info: MethodInfo) -> str:
    if info.config is None:
        return ""
    described = _json("list", "methods", info.name, "--json")
    choices = {f.name: f.metadata.get("choices", ()) for f in dataclasses.fields(info.config)}
    shared = {f.name for f in dataclasses.fields(AdapterConfig)} if info.method is not None else set()
    rows = {
        key: (f"`{key}`", _type(row["type"]), f"`{_literal(row['default'])}`", _help(row["help"], choices[key]))
        for key, row in described.items()
    }
    head = ("setting", "type", "default", "meaning")
    own = [row for key, row in rows.items() if key not in shared]
    attaching = [row for key, row in rows.items() if key in shared]
    parts = ["## Settings\n\nFields of the configuration in Python, `--set KEY=VALUE` on the command line.\n"]
    parts += [table(head, own)] if own else []
    parts += [f"Where the method is attached, as for every method of genft:\n\n{table(head, attaching)}"] * bool(
        attaching
    )
    return "\n".join(parts)


def notes(info: MethodInfo) -> str:
    """The method's row in the table of peft's methods; our own methods have whole sections there."""
    papers = PAPERS.read_text(encoding="utf-8")
    for line in papers.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("|") and cells[0] == f"`{info.name}`" and len(cells) > 3 and cells[-1] != "–":
            return f"## What genft adds, and deviations\n\n{cells[-1][:1].upper()}{cells[-1][1:]}.\n"
    if info.method is not None:
        about = "[Papers](../papers.md) maps each equation to its code and lists every deviation."
        return f"## Deviations from the paper\n\n{about}\n"
    return ""


# ---------------------------------------------------------------- Markdown


def markdown(docstring: str) -> str:
    """A docstring as Markdown: indented blocks become code, double backticks single ones."""
    parts = []
    for indented, lines in itertools.groupby(
        docstring.split("\n\n"), key=lambda paragraph: paragraph.startswith("    ")
    ):
        text = "\n\n".join(lines)
        if indented:
            parts.append(f"```text\n{textwrap.dedent(text).rstrip().replace('``', '')}\n```")
        else:
            parts.append(re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`"))
    return "\n\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: int = 0) -> str:
    columns = list(head)
    rule = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (columns, rule, *rows)) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _help(text: str, choices: Iterable[Any]) -> str:
    allowed = ", ".join(f"`{_literal(c)}`" for c in choices)
    plain = re.sub(r"(`[^`]*`)|\*", lambda match: match[1] or "\\*", text)  # stars of regular expressions
    return f"{plain} Allowed: {allowed}." if allowed else plain


def _type(name: str) -> str:
    """peft's configurations have types that the command line has no word for."""
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name)


def _literal(value: Any) -> str:
    """As Python writes it, with double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _values(values: Values) -> str:
    given = {**values.settings, **values.training, **values.run}
    return ", ".join(f"`{key}={value}`" for key, value in given.items()) or "–"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _json(*words: str) -> Any:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(f"genft {' '.join(words)}: {result.output}")
    return json.loads(result.stdout)


if __name__ == "__main__":
    json.dump(site(), sys.stdout, ensure_ascii=False)
