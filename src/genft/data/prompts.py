"""Prompts and answers in tables: which columns they are in, and one example per row.

An example's input is its prompt; for a chat, the messages before the answer as JSON. Its label holds the answer, or
several that are equally right; a text that is learned as a whole has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from genft.data.examples import Examples
from genft.data.own_files import read_own_files
from genft.data.own_table import OwnTable
from genft.data.prompting import Prompting, fields
from genft.data.tables import Table, tell
from genft.data.task import Fault, Split, Task, TaskData, refuse
from genft.errors import ConfigError, DataError, not_one_of
from genft.records import check

Message = dict[str, str]

#: Columns with conversations: OpenAI's and TRL's name, and ShareGPT's.
CHATS = ("messages", "conversations")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SHARE_GPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


@dataclass(frozen=True)
class Layout:
    """Columns that hold prompts and answers.

    Attributes:
        prompt: the prompt's columns.
        answers: names of the answer's column; the first that a file has is meant.
        template: writes the prompt; see :class:`~genft.data.prompting.Prompting`.
        certain: whether these columns occur in no other kind of task.
    """

    prompt: tuple[str, ...]
    answers: tuple[str, ...]
    template: str = ""
    certain: bool = True


_ANSWERS = ("response", "completion", "answer", "output")
LAYOUTS = (
    Layout(("instruction", "input"), ("output", *_ANSWERS), "alpaca"),
    Layout(("instruction",), ("output", *_ANSWERS), "alpaca-no-input"),
    Layout(("prompt",), _ANSWERS),
    Layout(("query",), ("response", "answer"), "Question: {query}\nAnswer:"),
    Layout(("document",), ("summary",), "{document}\n\nSummary:"),
    Layout(("article",), ("highlights", "summary", "abstract"), "{article}\n\nSummary:"),
    Layout(("dialogue",), ("summary",), "{dialogue}\n\nSummary:"),
    Layout(("text",), ("summary",), "{text}\n\nSummary:"),
    Layout(("source",), ("target",)),
    Layout(("meaning_representation",), ("human_reference",), "{meaning_representation}\n\nText:"),
    Layout(("mr",), ("ref",), "{mr}\n\nText:"),
    Layout(("question",), ("answer", "response"), "Question: {question}\nAnswer:", certain=False),
)


class Recognised(NamedTuple):
    """What a file's columns mean.

    Attributes:
        prompt, answer: the prompt's columns, and the answer's; in a chat both are the same one.
        prompting: how prompts are written.
        certain: whether nothing else has such columns.
    """

    prompt: tuple[str, ...]
    answer: str
    prompting: Prompting
    certain: bool


def recognise(columns: Sequence[str]) -> Recognised | None:
    """The meaning of a file's columns; None if they are none of :data:`LAYOUTS`, no chats, and no ``text``."""
    for name in CHATS:
        if name in columns:
            return Recognised((name,), name, Prompting(chat=True), True)
    for layout in LAYOUTS:
        answer = next((name for name in layout.answers if name in columns), None)
        if answer and set(layout.prompt) <= set(columns):
            certain = layout.certain and not {"label", "context"} & set(columns)
            return Recognised(layout.prompt, answer, Prompting(template=layout.template), certain)
    return Recognised(("text",), "", Prompting(), False) if "text" in columns else None


def find_prompt_columns(file: OwnTable) -> Recognised | None:
    """The columns of a file with prompts, as it has them or the user named them; None if they must be certain, and may
    mean something else.

    Raises:
        DataError: they need not be certain; none is known, and the user named none.
        ConfigError: a value of ``file.prompting`` cannot be used.
    """
    recognised = recognise(file.columns)
    if file.certain and (recognised is None or not recognised.certain):
        return None
    asked = tuple(file.texts) or fields(str(file.prompting.get("template", "")))
    if recognised is None and not asked:
        raise DataError(
            f"{file.path}: the columns {', '.join(file.columns)} are none of the usual names of prompts and answers; "
            "name them with --text-column and --label-column, or write the prompt with --template"
        )
    known = recognised if recognised and asked in ((), recognised.prompt) else Recognised(asked, "", Prompting(), True)
    usual = recognised.answer if recognised and recognised.answer not in asked else ""
    how = check(Prompting, {**known.prompting.model_dump(), **file.prompting}, "prompting")
    check_columns(how, file.columns, file.path)
    return known._replace(answer=file.label or known.answer or usual, prompting=how)


def about_columns(task: Task) -> str:
    """A sentence about the columns that a task reads."""
    asked = " and ".join(map(repr, task.text_columns))
    if task.text_columns[0] in CHATS and task.label_column in CHATS:
        return f"generation: chats from the column {asked}; every message of the assistant is learned"
    if not task.label_column:
        return f"generation: texts from the column {asked}, which are learned as a whole"
    template = task.prompting.template
    how = f", written as {template!r}" if template else ""
    return f"generation: prompts from the column {asked}{how}; answers from {task.label_column!r}"


def read_prompt_files(task: Task, fault: Fault = refuse) -> TaskData:
    """The prompts and answers of ``task.files``; a missing validation or test split is held out from training."""
    return read_own_files(task, read_prompts, fault, about=about_columns(task))


def read_prompts(table: Table, task: Task, fault: Fault = refuse, *, answered: bool = True) -> Examples:
    """The examples of a table.

    Args:
        table: its rows.
        task: names the columns and says how prompts are written.
        fault: called with a sentence for every row that has no prompt or no answer.
        answered: whether the rows have answers; without, a chat ends with the message to answer.
    """
    needed = dict.fromkeys((*task.text_columns, *fields(task.prompting.template)))
    if answered and task.label_column:
        needed[task.label_column] = None
    for name in needed:
        if name not in table.columns:
            raise DataError(not_one_of(f"{table.path}: column", name, table.columns, what="is missing"))
    inputs: list[tuple[str]] = []
    labels: list[tuple[str, ...]] = []
    places: list[str] = []
    faults: list[str] = []
    cut = 0
    for k, row in enumerate(table.rows):
        try:
            prompt, answers, dropped = _example(row, task, answered)
        except DataError as e:
            faults.append(f"{table.where(k)}: {e}")
            continue
        cut += dropped > 0
        inputs.append((prompt,))
        labels.append(answers)
        places.append(table.where(k))
    tell(faults, fault)
    notes = [*table.notes]
    if cut:
        chats = "1 chat ends" if cut == 1 else f"{cut:,} chats end"
        notes.append(f"{chats} with a message that nobody answers, which is left out")
    return Examples(Split(tuple(inputs), tuple(labels)), places, notes)


def _example(row: Mapping[str, Any], task: Task, answered: bool) -> tuple[str, tuple[str, ...], int]:
    """(the prompt, its answers, how many unanswered messages were left out at the end)."""
    prompting, first = task.prompting, task.text_columns[0]
    value = _parsed(row.get(first))
    if isinstance(value, list):
        return _chat(value, row, task, answered)
    columns = dict.fromkeys((*task.text_columns, *fields(prompting.template)))
    values = {name: _text(row.get(name), name) for name in columns}
    if not any(value.strip() for value in values.values()):
        raise DataError(f"no text in the column {first!r}")
    prompt = prompting.write(values, task.text_columns)
    answers = _answers(row.get(task.label_column), task.label_column) if answered and task.label_column else ()
    return (as_chat(prompt, prompting.system) if prompting.chat else prompt), answers, 0


def _chat(value: list[Any], row: Mapping[str, Any], task: Task, answered: bool) -> tuple[str, tuple[str, ...], int]:
    first, column = task.text_columns[0], task.label_column
    if not task.prompting.chat:
        raise DataError(f"the column {first!r} contains a list; it needs one text per row")
    messages = read_messages(value, first)
    if answered and column and column != first:
        replies = _parsed(row.get(column))
        messages += (
            read_messages(replies, column)
            if isinstance(replies, list)
            else [{"role": "assistant", "content": _text(replies, column)}]
        )
    if task.prompting.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": task.prompting.system})
    if not answered:
        return json.dumps(messages, ensure_ascii=False), (), 0
    last = max((k for k, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if not last:
        raise DataError(f"{first}: no message of the assistant answers another one")
    before = json.dumps(messages[:last], ensure_ascii=False)
    return before, (messages[last]["content"],), len(messages) - 1 - last


def as_chat(prompt: str, system: str = "") -> str:
    """A prompt as the JSON of a chat with one message of the user."""
    messages = [{"role": "system", "content": system}] if system else []
    return json.dumps([*messages, {"role": "user", "content": prompt}], ensure_ascii=False)


def read_messages(value: Sequence[Any], where: str) -> list[Message]:
    """Messages with the roles system, user, assistant and tool, from OpenAI's form or ShareGPT's.

    Raises:
        DataError: an entry is no message with a role and a text.
    """
    messages = []
    for k, entry in enumerate(value):
        place = f"{where}[{k}]"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: is not an object with role and content")
        role, content = entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))
        known = _ROLES | (_SHARE_GPT if "from" in entry else {})
        if role not in known:
            raise DataError(not_one_of(f"{place}: role", role, known))
        if isinstance(content, list):  # parts of a message
            if odd := [part for part in content if not isinstance(part, dict) or part.get("type") != "text"]:
                raise DataError(f"{place}: a part of its content is not a text: {str(odd[0])[:60]}")
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise DataError(f"{place}: its content is not a text")
        messages.append({"role": known[role], "content": content})
    if not messages:
        raise DataError(f"{where}: holds no message")
    return messages


def _parsed(value: Any) -> Any:
    """A list in a cell of a CSV file is written as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text(value: Any, column: str) -> str:
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        raise DataError(f"the column {column!r} contains {kind}; it needs one text per row")
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _answers(value: Any, column: str) -> tuple[str, ...]:
    """One answer, or the texts of a list of them."""
    answers = tuple(_text(each, column) for each in value) if isinstance(value, list) else (_text(value, column),)
    if not any(answer.strip() for answer in answers):
        raise DataError(f"no answer in the column {column!r}")
    return tuple(answer for answer in answers if answer.strip())


def check_columns(prompting: Prompting, columns: Sequence[str], path: object) -> None:
    """Refuse a template that names a column which a file lacks.

    Raises:
        ConfigError: naming the column and the nearest one.
    """
    for name in fields(prompting.template):
        if name not in columns:
            raise ConfigError(not_one_of("template: column", name, columns, what=f"is missing in {path}"))
