"""Prompts and answers in tables: which columns are recognised, and how rows become examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genft import ConfigError, DataError
from genft.data import Task
from genft.data.prompting import Prompting
from genft.data.prompts import about_columns, check_columns, read_prompts, recognise
from genft.data.tables import Table, read_table
from genft.records import check


def rows(folder: Path, *entries: dict[str, Any]) -> Table:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return read_table(path)


def task_of(table: Table, **prompting: Any) -> Task:
    recognised = recognise(table.columns)
    assert recognised is not None
    texts, answer, how, _ = recognised
    how = Prompting.model_validate({**how.model_dump(), **prompting})
    return Task(name="t", kind="text", reader="prompts", text_columns=texts, label_column=answer, prompting=how)


@pytest.mark.parametrize(
    ("columns", "prompt", "answer", "certain"),
    [
        (("prompt", "completion"), ("prompt",), "completion", True),
        (("id", "response", "prompt"), ("prompt",), "response", True),
        (("output", "input", "instruction"), ("instruction", "input"), "output", True),
        (("document", "summary", "id"), ("document",), "summary", True),
        (("article", "highlights"), ("article",), "highlights", True),
        (("mr", "ref"), ("mr",), "ref", True),
        (("query", "response"), ("query",), "response", True),
        (("question", "answer"), ("question",), "answer", False),
        (("question", "context", "answer"), ("question",), "answer", False),
        (("prompt", "response", "label"), ("prompt",), "response", False),
        (("text", "label"), ("text",), "", False),
        (("messages",), ("messages",), "messages", True),
    ],
)
def test_columns_that_are_recognised(
    columns: tuple[str, ...], prompt: tuple[str, ...], answer: str, certain: bool
) -> None:
    recognised = recognise(columns)
    assert recognised is not None
    assert (recognised[0], recognised[1], recognised[3]) == (prompt, answer, certain)
    assert recognise(("review", "stars")) is None


def test_a_chat_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    share_gpt = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}, {"from": "human", "value": "bye"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    table = rows(
        tmp_path, {"conversations": share_gpt}, {"conversations": [*parts, {"role": "assistant", "content": "c"}]}
    )
    task = task_of(table, system="be brief")
    prompts = read_prompts(table, task)
    system = {"role": "system", "content": "be brief"}
    assert [json.loads(text) for (text,) in prompts.split.inputs] == [
        [system, {"role": "user", "content": "hi"}],
        [system, {"role": "user", "content": "ab"}],
    ]
    assert prompts.split.labels == (("hello",), ("c",))
    assert prompts.notes == ["1 chat ends with a message that nobody answers, which is left out"]
    unanswered = read_prompts(table, task, answered=False)
    assert json.loads(unanswered.split.inputs[0][0])[-1] == {"role": "user", "content": "bye"}
    assert (
        about_columns(task)
        == "generation: chats from the column 'conversations'; every message of the assistant is learned"
    )


def test_prompts_and_completions_may_be_messages(tmp_path: Path) -> None:
    entry = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    table = rows(tmp_path, entry)
    with pytest.raises(DataError, match="line 1: the column 'prompt' contains a list; it needs one text per row"):
        read_prompts(table, task_of(table))
    prompts = read_prompts(table, task_of(table, chat=True))
    assert prompts.split.inputs == (('[{"role": "user", "content": "a"}]',),)
    assert prompts.split.labels == (("b",),)


def test_alpacas_template_depends_on_the_input(tmp_path: Path) -> None:
    table = rows(
        tmp_path,
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": ["hi", "hello"]},
    )
    prompts = read_prompts(table, task_of(table))
    (first,), (second,) = prompts.split.inputs
    assert first.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert second.endswith("request.\n\n### Instruction:\nSay hi.\n\n### Response:\n")
    assert prompts.split.labels == (("3",), ("hi", "hello"))


def test_a_template_names_columns(tmp_path: Path) -> None:
    table = rows(tmp_path, {"question": "q", "answer": "a", "hint": "h"})
    task = task_of(table, template="{question} ({hint}) {{}}")
    assert read_prompts(table, task).split.inputs == (("q (h) {}",),)
    assert read_prompts(table, task.model_copy(update={"label_column": ""})).split.labels == ((),)
    with pytest.raises(
        ConfigError, match="template: column: 'hnt' is missing in x; allowed: question, answer, hint; near"
    ):
        check_columns(Prompting(template="{hnt}"), table.columns, "x")


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("alpca", "prompting: template: 'alpca' names no column in braces"),
        ("{question", "template: expected '}' before end of string"),
        ("{a.b}", r"template: \{a.b\} is not the name of a column"),
        ("{} x", r"template: \{\} is not the name of a column"),
    ],
)
def test_templates_that_cannot_be_read(template: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(Prompting, {"template": template}, "prompting")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"messages": [{"role": "asistant", "content": "x"}]},
            r"messages\[0\]: role: 'asistant' .*nearest: 'assistant'",
        ),
        ({"messages": ["x"]}, r"messages\[0\]: is not an object with role and content"),
        ({"messages": []}, "messages: holds no message"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages: no message of the assistant answers another one"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]: its content is not a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            r"messages\[0\]: a part of its content is not a text",
        ),
        ({"prompt": "x", "completion": " "}, "no answer in the column 'completion'"),
        ({"prompt": "", "completion": "x"}, "no text in the column 'prompt'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, entry: dict[str, Any], sentence: str) -> None:
    table = rows(tmp_path, entry)
    faults: list[str] = []
    assert read_prompts(table, task_of(table), faults.append).split.inputs == ()
    with pytest.raises(DataError, match=f"line 1: {sentence}"):
        read_prompts(table, task_of(table))
    assert len(faults) == 1
