"""Benchmarks whose answers are texts, as their files lie on disk or on the Hub: one table per split.

GSM8K (arXiv 2110.14168), MetaMathQA (arXiv 2309.12284), XSum (arXiv 1808.08745), CNN/DailyMail (arXiv 1704.04368) and
E2E (arXiv 1706.09254).
"""

from __future__ import annotations

from genft.data.examples import Examples, as_data
from genft.data.prompts import about_columns, read_prompts
from genft.data.suite_tables import Files, suite_tables
from genft.data.tables import Table
from genft.data.task import Fault, Split, SplitName, Task, TaskData, draw, refuse

#: peft's comparison leaves out texts that do not fit into its 768 tokens, by their characters.
_LONGEST_METAMATH = 1300


_USUAL: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "dev", "val"),
    "test": ("test",),
}
_PLACES = {
    "gsm8k": Files("openai/gsm8k", ("main/*.parquet",), {"train": ("train",), "test": ("test",)}),
    "xsum": Files("EdinburghNLP/xsum", ("data/*.parquet",), _USUAL),
    "cnn_dailymail": Files("abisee/cnn_dailymail", ("3.0.0/*.parquet",), _USUAL),
    "e2e": Files(
        "GEM/e2e_nlg",
        ("*.csv", "*.parquet"),
        {
            "train": ("train", "trainset", "train-fixed.no-ol"),
            "validation": ("dev", "devset", "validation", "devel-fixed.no-ol"),
            "test": ("test", "testset_w_refs", "test-fixed"),
        },
    ),
    "metamath": Files("meta-math/MetaMathQA", ("*.json",), {"train": ("MetaMathQA-395K", "train")}),
}


def read_prompt_suite(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits of a benchmark that exist.

    E2E without its training set is trained on its development set. MetaMathQA is tested on GSM8K, as in peft's
    comparison, whose selection of 20,000 training examples is drawn here with a seed of our own.
    """
    tables = suite_tables(task, _PLACES[task.name])
    notes = [about_columns(task)]
    if task.name == "e2e" and "train" not in tables and "validation" in tables:
        tables = {"train": tables["validation"], "test": tables["test"]}
        notes.append("train does not exist: the development set is trained on (--protocol train-tenth)")
    found: dict[str, Examples] = {name: _named(task, table, fault) for name, table in tables.items()}
    if task.name == "e2e" and "test" in found:
        found["test"] = _all_references(found["test"])
    if task.name == "metamath":
        found["train"], found["validation"], note = _peft_selection(task, found["train"])
        questions = replace_columns(task, "question", "answer")
        found["test"] = read_prompts(suite_tables(_beside(task, "gsm8k"), _PLACES["gsm8k"])["test"], questions, fault)
        notes.append(note)
    return as_data(task, found, notes)


def replace_columns(task: Task, prompt: str, answer: str) -> Task:
    """``task`` with the same template on other columns."""
    template = task.prompting.template.replace(f"{{{task.text_columns[0]}}}", f"{{{prompt}}}")
    how = task.prompting.model_copy(update={"template": template})
    return task.model_copy(update={"text_columns": (prompt,), "label_column": answer, "prompting": how})


def _named(task: Task, table: Table, fault: Fault) -> Examples:
    """The prompts of a table, some of whose copies name the columns differently."""
    for prompt, answer in ((task.text_columns[0], task.label_column), ("meaning_representation", "target"),
                           ("meaning_representation", "human_reference"), ("MR", "ref"), ("mr", "ref")):  # fmt: skip
        if {prompt, answer} <= set(table.columns):
            return read_prompts(table, replace_columns(task, prompt, answer), fault)
    return read_prompts(table, task, fault)


def _beside(task: Task, name: str) -> Task:
    """Another benchmark in the same root."""
    return task.model_copy(update={"name": name, "folders": (name,)})


def _peft_selection(task: Task, prompts: Examples) -> tuple[Examples, Examples, str]:
    """(train, validation, a note): 20,000 training examples and 50 more among those that are not too long."""
    around = len(task.prompting.template) - len("{query}") - 1  # peft counts the query, a space and the response
    pairs = zip(prompts.split.inputs, prompts.split.labels, strict=True)
    lengths = [len(text) - around + len(answers[0]) for (text,), answers in pairs]
    short = [k for k, length in enumerate(lengths) if length <= _LONGEST_METAMATH]
    size = min(20_050, len(short))
    _, drawn = draw([0] * len(short), size, 0, False) if size < len(short) else ([], list(range(len(short))))
    chosen = [short[k] for k in drawn]
    held = max(1, min(50, len(chosen) // 10))
    train, validation = prompts.take(chosen[held:]), prompts.take(chosen[:held])._replace(notes=())
    counted = f"{len(short):,} of {len(lengths):,} examples have at most {_LONGEST_METAMATH:,} characters"
    note = f"{counted}; {size:,} of them are drawn"
    return train, validation, note


def _all_references(prompts: Examples) -> Examples:
    """One example per prompt, with all of its answers: E2E has several descriptions of each restaurant."""
    answers: dict[tuple[str, ...], tuple[str, ...]] = {}
    places: dict[tuple[str, ...], str] = {}
    for asked, of_prompt, place in zip(prompts.split.inputs, prompts.split.labels, prompts.places, strict=True):
        answers[asked] = (*answers.get(asked, ()), *of_prompt)
        places.setdefault(asked, place)
    return Examples(Split(tuple(answers), tuple(answers.values())), list(places.values()), prompts.notes)
