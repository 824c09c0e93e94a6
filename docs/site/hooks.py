"""Hooks for mkdocs that add to the pages in docs/: the home page, the changelog, the examples, the results
of the benchmarks, a page per method.

The home page is the README, so that the text exists only once. The pages of the methods come from `method_pages.py`,
which needs genft: it runs under the interpreter of mkdocs, or under the one that GENFT_PYTHON names.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results/"
LANGUAGES = {".py": "python", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the generated pages, and put the methods into the navigation."""
    families, methods = _method_pages()
    made = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "examples.md": _examples(),
        **{f"results/{path.name}": path.read_text(encoding="utf-8") for path in sorted((ROOT / RESULTS).iterdir())},
        **methods,
    }
    config.extra["generated"] = made
    entry = next(entry for entry in config.nav or [] if "Methods" in entry)
    entry["Methods"] = ["methods/index.md", *({family: paths} for family, paths in families.items())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, content in config.extra["generated"].items():
        if known := files.get_file_from_path(path):
            files.remove(known)  # docs/index.md is the list of documents for readers of the repository
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links as they are in the repository, turned into links of the site."""
    here = posixpath.dirname(page.file.src_uri)

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        if path.startswith(("http:", "https:", "mailto:")):
            return match[0]
        top = (
            "" if page.file.src_uri in ("index.md", "changelog.md") else "docs"
        )  # where the page lies in the repository
        path = posixpath.normpath(posixpath.join(top, here, path))
        if path.startswith("examples"):
            path, anchor = "examples.md", ""
        elif path.startswith(RESULTS):
            path = f"results/{path.removeprefix(RESULTS)}"
        elif path == "CHANGELOG.md":
            path = "changelog.md"
        elif path == "README.md":
            path = "index.md"
        else:
            path = posixpath.relpath(path, "docs")
        return f"]({posixpath.relpath(path, here or '.')}{anchor})"

    return re.sub(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", target, markdown)


def _examples() -> str:
    files = [path for path in sorted((ROOT / "examples").iterdir()) if path.suffix in LANGUAGES]
    parts = [f"## {p.name}\n\n```{LANGUAGES[p.suffix]}\n{p.read_text(encoding='utf-8')}```\n" for p in files]
    return "\n".join(["# Examples\n\nComplete files, from the folder `examples` of the repository.\n", *parts])


def _method_pages() -> tuple[dict[str, list[str]], dict[str, str]]:
    """(Family → the paths of its pages, path → Markdown)."""
    command = [os.environ.get("GENFT_PYTHON", sys.executable), str(Path(__file__).with_name("method_pages.py"))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    made = json.loads(done.stdout)
    return made["families"], made["pages"]
