"""The commands and the Python lines of the README and the guides, run as they stand, and the pages of the methods.

Commands of every page run on tiny models and files of the names that the text uses. A command that needs data, weights,
machines or minutes that are not here (NOT_HERE) is parsed: its name, its options and their values must exist.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from typer.testing import CliRunner

import genft
from genft.cli import app
from genft.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
#: Why a command is only parsed; so is one with a lone "…", a place that the reader fills in.
NOT_HERE = {
    "~/data": "a benchmark's data",
    "FacebookAI/": "weights from the Hub",
    "stanfordnlp/": "data from the Hub",
    "params ": "half a minute; tests/test_counts.py runs it",
    "bench reviews.toml": "a process for each of a dozen runs; tests/sweeps runs benches",
    "study ": "a process for each run; tests/sweeps/test_study.py runs studies",
    "search ": "forty runs; tests/sweeps/test_search.py runs searches",
}
COUNTED = {
    ("GenFT, default", "all linear weights of a layer"): genft.GenFTConfig(),
    ("GenFT, `shared_dim=27`", "the same"): genft.GenFTConfig(shared_dim=27),
    ('GenFT, `scope="attention"`', "q, k, v, o"): genft.GenFTConfig(scope="attention"),
    ("VectorFit, default", "all linear weights of a layer"): genft.VectorFitConfig(),
    ("LoRA r = 8", "q, v"): LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
    ("LoRA r = 8", "all linear weights of a layer"): LoraConfig(r=8, target_modules="all-linear"),
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every `genft` command in the console blocks of a page, without comments."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True)[1:] for line in lines if line.startswith("$ genft ")]


def parse(words: list[str]) -> None:
    """Fails on a command, an option or a value that does not exist."""
    command: Any = typer.main.get_command(app)
    name = "genft"
    context = command.context_class(command, info_name=name)
    while hasattr(command, "resolve_command"):
        context = command.context_class(command, parent=context, info_name=name)
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_commands_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('task = "reviews.csv"\nmodel = "minilm-l6"\n')
    for words in commands(page):
        try:
            parse(words)
        except Exception as e:
            if "…" in words and "Missing parameter" in str(e):  # "and so on"
                continue
            pytest.fail(f"{page.name}: genft {shlex.join(words)}: {getattr(e, 'message', e)}")


@pytest.mark.parametrize("line", ["trian x.csv", "train x.csv --modle m", "bench x --model m --jobs y"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"No such|valid integer") as e:
        parse(line.split())
    assert hasattr(e.value, "exit_code")  # what it says to a user


@pytest.fixture
def desk(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    _write("reviews.csv", ("review", "stars"), [(f"w{i % 20} {'good' if i % 2 else 'bad'}", i % 2) for i in range(60)])
    _write("new.csv", ("review",), [("good film",), ("so bad",)])
    _write("labelled.csv", ("review", "stars"), [("good film", 1), ("so bad", 0)] * 10)
    _write(
        "pairs.csv",
        ("question", "answer", "fits"),
        [(f"w{i % 20}", f"w{i % 2}", ["no", "yes"][i % 2]) for i in range(60)],
    )
    _write("prices.csv", ("description", "price"), [(f"w{i % 20} film", i % 2 + i / 100) for i in range(60)])
    turns = [{"role": role, "content": "good film"} for role in ("user", "assistant")]
    chats = [json.dumps({"messages": turns}) for _ in range(20)]
    Path("chats.jsonl").write_text("\n".join(chats), encoding="utf-8")
    Path("test.jsonl").write_text("\n".join(chats[:4]), encoding="utf-8")
    Path("wikipedia.jsonl").write_text('{"text": "w1 film w2"}\n' * 3, encoding="utf-8")
    Path("new.jsonl").write_text(chats[0], encoding="utf-8")
    for name, contexts in (("qa.json", 30), ("qa_dev.json", 5), ("qa_new.json", 2)):
        Path(name).write_text(json.dumps({"data": [{"paragraphs": list(map(_paragraph, range(contexts)))}]}))
    for name, sentences in (("names.conll", 30), ("names_dev.conll", 5)):
        Path(name).write_text("".join(f"w{k % 20} O\ngood B-PER\nfilm I-PER\n\n" for k in range(sentences)))
    _write("posts.csv", ("text",), [("good film",), ("so bad",)])
    shutil.copytree(images, "photos")
    return tmp_path


def _paragraph(k: int) -> dict[str, Any]:
    """A context of SQuAD with one question."""
    answers = [{"text": "good", "answer_start": len(f"w{k % 20} ")}]
    return {"context": f"w{k % 20} good film", "qas": [{"id": str(k), "question": f"w{k % 20}", "answers": answers}]}


def _write(name: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def _runs(words: list[str]) -> bool:
    return "…" not in words and not any(mark in f"{' '.join(words)} " for mark in NOT_HERE)


def _here(words: list[str], models: dict[str, Path]) -> list[str]:
    """The command on what is here: tiny models, and the adapters that the commands before have saved."""
    saved = sorted(Path("runs/adapters").glob("*"), key=lambda p: (not p.name.startswith("reviews"), p.name))
    following = iter(saved * 2)
    places = {f"runs/adapters/{name}": folder for name, folder in zip("AB", saved, strict=False)} | models
    return [str(next(following)) if word == "runs/adapters/…" else str(places.get(word, word)) for word in words]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(map(_runs, commands(p)))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_commands_run(page: Path, desk: Path, bert: Path, decoder: Path, timm_vit: Path) -> None:
    images = ("facebook/dinov2-small", "vit_base_patch16_224.augreg_in21k")
    models = {"minilm-l6": bert, "smollm2-135m": decoder, **dict.fromkeys(images, timm_vit)}
    train = ["train", "reviews.csv", "--model", str(bert), "--text-column", "review", "--label-column", "stars"]
    here = [words for words in commands(page) if _runs(words)]
    if any(" ".join(words).endswith("--against lora") for words in here):  # of a bench that is only parsed
        _run([*train, "--method", "lora"])
    for words in here:
        if not Path("runs/adapters").exists() and any(word.startswith("runs") for word in words):
            _run(train)  # the page begins after a run
        if "runs/adapters/B" in words:
            _run([*train, "--method", "lora"])
        _run(_here(words, models))


def _run(words: list[str]) -> None:
    quick = {"train": ["--epochs", "2"], "show": ["--only", "norms"]}.get(words[0], [])  # tests/figures draws all
    done = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, [*words, *quick])
    assert done.exit_code == 0, f"genft {shlex.join(words)}:\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_lines_are_python(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Of the source, as `bridge/weight/layer.py` or from the root of the repository."""
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|toml|csv))\b", page.read_text(encoding="utf-8"))
    own = [name for name in named if not name.startswith(("runs/", "OUT/"))]
    assert [n for n in own if not (ROOT / n).exists() and not (ROOT / "src" / "genft" / n).exists()] == []


def test_the_python_of_the_readme_runs(bert: Path, desk: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    dataset = [{**tokenizer(text), "labels": label} for text, label in (("good film", 1), ("so bad", 0)) * 4]
    space: dict[str, Any] = {"tokenizer": tokenizer, "dataset": dataset}
    exec(code.replace("FacebookAI/roberta-base", str(bert)), space)
    assert Path("adapter/adapter_model.safetensors").exists()
    assert space["arguments"].learning_rate == 1e-3
    assert not any("genft" in name for name, _ in space["model"].named_parameters())
    for page in ("docs/serving.md", "docs/quickstart.md"):  # both go on with the folder "adapter"
        (code,) = blocks(ROOT / page, "python")
        exec(code.replace("FacebookAI/roberta-base", str(bert)), {})


def test_the_python_of_texts_runs(bert: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(["train", "reviews.csv", "--model", str(bert), "--text-column", "review", "--label-column", "stars"])
    (folder,) = Path("runs/adapters").iterdir()
    (code,) = blocks(ROOT / "docs" / "texts.md", "python")
    space: dict[str, Any] = {}
    exec(code.replace("runs/adapters/…", str(folder)), space)
    assert space["scores"].shape == (2, 2)
    assert "('0', '1')" in capsys.readouterr().out


def test_counts_of_the_large_decoder() -> None:
    """The table of docs/decoder_7b.md, counted on the meta device."""
    text = (ROOT / "docs" / "decoder_7b.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| ([\d,]+) \|$", text, flags=re.MULTILINE)
    assert {(method, adapts) for method, adapts, _ in rows} == COUNTED.keys()
    for method, adapts, printed in rows:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(LlamaConfig(dtype="bfloat16"))
        assert f"{sum(p.numel() for p in base.parameters()):,}" in text
        model = get_peft_model(base, COUNTED[method, adapts])
        assert f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}" == printed, (method, adapts)


# ---------------------------------------------------------------- the pages of the methods


@pytest.fixture(scope="module")
def generator() -> Iterator[types.ModuleType]:
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs" / "site" / "method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_method_has_a_page(generator: types.ModuleType) -> None:
    site = generator.site()
    pages = site["pages"]
    assert pages.keys() == {"methods/index.md"} | {f"methods/{name}.md" for name in METHODS}
    assert sorted(page for group in site["families"].values() for page in group) == sorted(
        pages.keys() - {"methods/index.md"}
    )
    for name, info in METHODS.items():
        page = pages[f"methods/{name}.md"]
        assert info.trains in page
        assert f"]({name}.md)" in pages["methods/index.md"]
        if info.config is None:
            continue
        for setting in generator._json("list", "methods", name, "--json"):
            assert f"| `{setting}` |" in page
        (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
        space: dict[str, Any] = {}
        if name not in ("adalora",):  # which asks for the number of steps
            exec(code.rpartition("\nmodel = ")[0], space)
            assert isinstance(space["config"], info.config)


def test_markdown_of_a_docstring(generator: types.ModuleType) -> None:
    text = "First, see :class:`~a.b.C` and ``d``.\n\n    W = ``A``\n        B\n\n    more\n\nLast."
    assert generator.markdown(text) == "First, see `a.b.C` and `d`.\n\n```text\nW = A\n    B\n\nmore\n```\n\nLast."
