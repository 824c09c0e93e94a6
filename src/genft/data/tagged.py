"""Sentences whose words have tags: CoNLL's columns, and tables with a list of words and a list of tags per row.

An example's input is its sentence, the words separated by spaces; its label is the tuple of its words' tags. Whatever
scheme marks entities in a file, the tags are those of BIO (IOB2) afterwards: B- begins an entity, I- continues it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from genft.data.conll import TAGS, TOKENS
from genft.data.examples import Examples
from genft.data.labels import list_in
from genft.data.limits import LONGEST_TEXT
from genft.data.own_files import read_own_files
from genft.data.own_table import OwnTable
from genft.data.tables import Table, tell
from genft.data.task import Fault, Split, Task, TaskData, refuse
from genft.errors import DataError, nearest, not_one_of

#: The usual names of the columns.
_TOKENS = (TOKENS, "words")
_TAGS = (TAGS, "ner_tags", "pos_tags", "labels")
OUTSIDE = "O"
_BEGINS, _INSIDE, _ENDS, _ALONE = ("B",), ("I", "M"), ("E", "L"), ("S", "U")


class TaggedColumns(NamedTuple):
    """The columns of words and of tags."""

    words: str
    tags: str


def find_tagged_columns(file: OwnTable) -> TaggedColumns | None:
    """The columns of a file with tagged words; None if the columns must be certain, and may mean something else.

    Raises:
        DataError: they need not be certain, and are not known.
    """
    columns = file.columns
    words = file.texts[0] if file.texts else next((name for name in _TOKENS if name in columns), None)
    usual = [name for name in _TAGS if name in columns]
    tags = file.label or (usual[0] if usual and (len(usual) == 1 or not file.certain) else None)
    if words and tags and {words, tags} <= set(columns):
        return TaggedColumns(words, tags)
    if file.certain:
        return None
    raise DataError(
        f"{file.path}: the columns {', '.join(columns)} are not those of words and tags; name them with "
        "--text-column and --label-column"
    )


def read_tagged_files(task: Task, fault: Fault = refuse) -> TaskData:
    """The sentences of ``task.files``; a missing validation or test split is held out from training."""
    about = f"tokens: words from the column {task.text_columns[0]!r}, their tags from {task.label_column!r}"
    return read_own_files(task, read_tagged, fault, about=about, classes=tag_classes)


def read_tagged(table: Table, task: Task, fault: Fault = refuse) -> Examples:
    """The examples of a table.

    Args:
        table: its rows.
        task: names the columns; if it has classes, every tag must be one of them.
        fault: called with a sentence for every row whose words and tags cannot be used.
    """
    (words_column,) = task.text_columns
    for name in (words_column, task.label_column):
        if name not in table.columns:
            raise DataError(not_one_of(f"{table.path}: column", name, table.columns, what="is missing"))
    read: list[tuple[str, list[str], list[str]]] = []
    faults: list[str] = []
    spaced = 0
    for k, row in enumerate(table.rows):
        try:
            words = [_word(word) for word in _list(row.get(words_column), words_column)]
            tags = [_tag(tag) for tag in _list(row.get(task.label_column), task.label_column)]
            if len(words) != len(tags):
                raise DataError(f"{len(words)} words, but {len(tags)} tags")
        except DataError as e:
            faults.append(f"{table.where(k)}: {e}")
            continue
        spaced += sum(" " in word for word in words)
        read.append((table.where(k), [word.replace(" ", "_") for word in words], tags))
    scheme = _scheme([tags for _, _, tags in read])
    inputs, labels, places = [], [], []
    for where, words, tags in read:
        try:
            label = _known(_as_bio(tags, scheme), task.classes)
        except DataError as e:
            faults.append(f"{where}: {e}")
            continue
        inputs.append((" ".join(words),))
        labels.append(label)
        places.append(where)
    tell(faults, fault)
    notes = [*table.notes, f"{table.path.name}: {_SCHEMES[scheme]}"]
    if spaced:
        have = "1 word contains a space, which was" if spaced == 1 else f"{spaced:,} words contain spaces, which were"
        notes.append(f"{have} replaced by underscores")
    return Examples(Split(tuple(inputs), tuple(labels)), places, notes)


def tag_classes(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All tags, O first; of entities always both tags, so that a class that is only ever begun can go on."""
    tags = {tag for label in labels for tag in label}
    types = sorted({tag[2:] for tag in tags if is_entity(tag)})
    if OUTSIDE not in tags:
        return tuple(sorted(tags))
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def is_entity(tag: str) -> bool:
    """Whether a tag of BIO is one of an entity."""
    return tag[:2] in ("B-", "I-") and len(tag) > 2


# -------------------------------------------------------------------- values


def _list(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):  # a cell of a CSV file
        value = list_in(value)
    if not isinstance(value, list) or not value:
        raise DataError(f"the column {column!r} has no list of values")
    return value


def _word(word: Any) -> str:
    if not isinstance(word, str) or not word.strip():
        raise DataError(f"a word is {word!r}, which is no text")
    if len(word) > LONGEST_TEXT:
        raise DataError(f"a word has {len(word):,} characters; at most {LONGEST_TEXT:,} are read")
    return " ".join(word.split())


def _tag(tag: Any) -> str:
    if isinstance(tag, bool) or not isinstance(tag, (str, int)) or not str(tag).strip():
        raise DataError(f"a tag is {tag!r}, which is no name")
    if isinstance(tag, int):
        raise DataError(f"the tag {tag} is a number without a name; write the tags' names")
    return tag.strip()


def _known(tags: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    for tag in tags:
        if classes and tag not in classes:
            close = nearest(tag, classes)
            raise DataError(f"the tag {tag!r} is not in training" + (f"; nearest: {close!r}" if close else ""))
    return tuple(tags)


# -------------------------------------------------------------------- schemes

_SCHEMES = {
    "BIO": "tags of entities in BIO: B- begins one, I- continues it",
    "IOB1": "tags of entities in IOB1, where B- only separates neighbours; read as BIO",
    "BIOES": "tags of entities in BIOES (or BILOU); read as BIO",
    "part of BIOES": "tags of entities in a part of BIOES (or BILOU); read as BIO",
    "IO": "tags of entities without B- and I-; equal neighbours are read as one entity",
    "none": "one tag per word, no entities",
}


def _scheme(labels: Sequence[Sequence[str]]) -> str:
    """The scheme in which tags mark entities."""
    tags = Counter(tag for label in labels for tag in label)
    outside = tags.pop(OUTSIDE, 0)
    marked = sum(n for tag, n in tags.items() if _is_marked(tag))
    plain = tags.total() - marked
    if marked <= plain or (plain and not outside):
        return "IO" if outside else "none"
    prefixes = {tag[0] for tag in tags if _is_marked(tag)}
    if prefixes & {*_ENDS, *_ALONE}:
        return "BIOES" if all(prefixes & {*each} for each in (_BEGINS, _ENDS, _ALONE)) else "part of BIOES"
    starts = Counter(
        tag[0]
        for label in labels
        for before, tag in zip(("O", *label), label, strict=False)
        if _is_marked(tag) and (before == OUTSIDE or before[2:] != tag[2:])
    )
    return "IOB1" if starts["I"] > starts["B"] else "BIO"


def _is_marked(tag: str) -> bool:
    """Whether a tag has one of the prefixes of BIO or BIOES."""
    return tag[1:2] == "-" and len(tag) > 2 and tag[0] in (*_BEGINS, *_INSIDE, *_ENDS, *_ALONE)


def _as_bio(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags of one sentence in BIO.

    Raises:
        DataError: a tag contradicts the scheme of its file.
    """
    if scheme == "none":
        return list(tags)
    if scheme != "IO":
        _check_prefixes(tags)
    if scheme == "BIOES":
        _check_ends(tags)
    bio: list[str] = []
    before = OUTSIDE
    for tag in tags:
        prefix, kind = ("I", tag) if scheme == "IO" else (tag[0], tag[2:])
        goes_on = before != OUTSIDE and before[2:] == kind
        if tag == OUTSIDE:
            bio.append(OUTSIDE)
        elif scheme == "BIO" and prefix == "I" and not goes_on:
            raise DataError(f"{tag!r} continues no entity, while entities begin with B- elsewhere in this file")
        elif scheme == "IOB1" and prefix == "B" and not goes_on:
            raise DataError(f"{tag!r} separates no neighbours, while entities begin with I- elsewhere in this file")
        else:
            begins = prefix in (*_BEGINS, *_ALONE) or not goes_on
            bio.append(f"{'B' if begins else 'I'}-{kind}")
        before = OUTSIDE if prefix in (*_ENDS, *_ALONE) else bio[-1]
    return bio


def _check_prefixes(tags: Sequence[str]) -> None:
    """Refuse tags without a prefix."""
    for tag in tags:
        if tag != OUTSIDE and not _is_marked(tag):
            raise DataError(f"{tag!r} has no prefix such as B- or I-, while tags of entities have one in this file")


def _check_ends(tags: Sequence[str]) -> None:
    """Refuse entities of BIOES that nothing begins, or nothing ends."""
    going_on = ""  # the type of the entity that has not ended yet
    for tag in (*tags, OUTSIDE):
        prefix, kind = tag[0], tag[2:]
        inner = prefix in (*_INSIDE, *_ENDS)
        if inner and kind != going_on:
            raise DataError(f"{tag!r} continues no entity, while entities begin with B- elsewhere in this file")
        if going_on and not inner:
            raise DataError(f"an entity of type {going_on!r} has no end, while entities end with E- or L- in this file")
        going_on = kind if prefix in (*_BEGINS, *_INSIDE) else ""
