"""The splits that genft draws do not make the leak that it reports."""

from pathlib import Path

from PIL import Image

from genft.data import TaskData, read, task_from_path
from genft.data.copies import contents
from genft.data.task import Split


def sides(data: TaskData) -> dict[str, set[str]]:
    where: dict[str, set[str]] = {}
    for name, split in data.splits.items():
        for content in contents(data.task.kind, split):
            where.setdefault(content, set()).add(name)
    return where


def test_texts_are_equal_by_their_words() -> None:
    split = Split((("He left.", "So?"), ("he  left", "so"), ("he left so", ""), ("!", "?"), ("?", "!")), (0.0,) * 5)
    first, second, *others = contents("text", split)
    assert first == second
    assert len({first, *others}) == 4


def test_copies_of_texts_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = [(f"Row {k // 2}.", f"row {k // 2}")[k % 2] for k in range(60)]
    path.write_text("text,label\n" + "".join(f"{text},{'ab'[k // 2 % 2]}\n" for k, text in enumerate(texts)))
    data = read(task_from_path(path))
    assert all(len(names) == 1 for names in sides(data).values())
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 44, "validation": 4, "test": 12}
    assert "30 examples are copies of another; copies are kept in the same split" in data.notes
    assert not any("optimistic" in note for note in data.notes)


def test_pairs_are_copies_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = "".join(f"same,other {k // 3},{'ab'[k // 3 % 2]}\n" for k in range(90))
    path.write_text("first,second,label\n" + lines)
    data = read(task_from_path(path, text_columns=["first", "second"]))
    assert len(sides(data)) == 30
    assert all(len(names) == 1 for names in sides(data).values())


def test_copies_of_images_stay_together(tmp_path: Path) -> None:
    for k in range(60):
        folder = tmp_path / "ab"[k % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k // 4 * 4, 0, 100 * (k % 2))).save(folder / f"{k}.png")
    data = read(task_from_path(tmp_path))
    assert len(sides(data)) == 30
    assert all(len(names) == 1 for names in sides(data).values())


def test_data_without_copies_are_split_as_before(reviews: Path) -> None:
    """The fingerprint, which has the splits in it, was computed before copies were held together."""
    assert read(task_from_path(reviews)).fingerprint == (
        "dd386ef45fb9ec1148a95280ba9707ee66fcbbda4e736079f731e8ecc8646cf9"
    )
