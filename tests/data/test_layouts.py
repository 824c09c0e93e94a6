"""Benchmarks in the layouts that users have on disk: what is read, and what is refused with its file and line."""

import json
import shutil
import time
from pathlib import Path

import pytest

from benchmark_data import save_fgvc, save_glue, save_vtab
from genft import ConfigError, DataError, hub
from genft.data import find_tasks, layout, load_suite, load_task, read


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_glue(tmp_path_factory.mktemp("data") / "glue_data")


def test_glue_classes_are_those_of_the_hub(glue: Path) -> None:
    cola = read(load_task("cola", glue))
    assert {name: len(split) for name, split in cola.splits.items()} == {"train": 40, "validation": 20}
    assert cola.task.classes == ("unacceptable", "acceptable")
    text, label = cola.splits["train"].inputs[1][0], cola.splits["train"].labels[1]
    assert text.endswith("good")
    assert label == 1
    assert "train has 40 examples; cola should have 8,551" in cola.notes
    mnli = read(load_task("mnli", glue))
    assert mnli.splits["train"].labels[:4] == (0, 1, 2, 0)  # gold_label, not label1
    assert set(mnli.splits) == {"train", "validation", "mismatched"}


def test_quotes_and_the_byte_order_mark(glue: Path) -> None:
    mrpc = read(load_task("mrpc", glue))
    assert all(first.startswith('" w') for first, _ in mrpc.splits["train"].inputs)
    assert len(mrpc.splits["train"]) == 40


def test_scores_are_from_0_to_5(glue: Path, tmp_path: Path) -> None:
    assert set(read(load_task("stsb", glue)).splits["train"].labels) == {0, 1, 2, 3, 4, 5}
    (tmp_path / "STS-B").mkdir()
    (tmp_path / "STS-B/train.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t4.2\na\tb\t5.1\n")
    with pytest.raises(DataError, match=r"STS-B/train\.tsv: line 3: the score 5\.1 is not between 0 and 5"):
        read(load_task("stsb", tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gj\t1\t\tgood\ngj\t2\t\tbad\n", r"train\.tsv: line 2: label: '2' is not one of the classes"),
        ("gj\t1\t\tgood\ngj\tacceptible\t\tbad\n", r"line 2: label: 'acceptible' .*nearest: 'acceptable'"),
    ],
)
def test_a_wrong_glue_label_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA/train.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        read(load_task("cola", tmp_path))


def test_broken_glue_files(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    (folder / "train.tsv").write_text("index\tsentence\tlabel\n")
    with pytest.raises(DataError, match=r"RTE/train\.tsv: column: 'sentence1' is missing; allowed: index, sentence"):
        read(load_task("rte", tmp_path))
    (folder / "train.tsv").write_bytes(b"index\tsentence1\tsentence2\tlabel\n0\t\xff\n")
    with pytest.raises(DataError, match=r"train\.tsv: line 2: byte 0xff is not valid UTF-8"):
        read(load_task("rte", tmp_path))
    (folder / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\n1\ta\tb\tentailment\n2\ta\n")
    data = read(load_task("rte", tmp_path))
    assert data.splits["train"].inputs == (("a", "b"),)
    assert f"{folder}/train.tsv: 2 lines with too few columns were dropped; the first is line 2" in data.notes
    assert f"{folder}/dev.tsv does not exist" in data.notes


def test_the_root_is_the_suite_or_the_folder_above_or_the_task(tmp_path: Path) -> None:
    folder = save_vtab(tmp_path / "VTAB-1k" / "oxford_pet")
    prints = {
        read(load_task(name, root)).fingerprint
        for name, root in [
            ("oxford_iiit_pet", tmp_path),
            ("oxford_pet", tmp_path / "VTAB-1k"),
            ("Oxford-IIIT-Pet", folder),
        ]
    }
    moved = shutil.copytree(tmp_path / "VTAB-1k", tmp_path / "elsewhere")
    assert {read(load_task("oxford_iiit_pet", moved)).fingerprint} == prints  # where the data lie is not in the key
    with pytest.raises(DataError, match=r"svhn: no folder svhn in .*VTAB-1k or .*; it should contain train800"):
        read(load_task("svhn", tmp_path))
    (tmp_path / "svhn").mkdir()
    with pytest.raises(DataError, match=r"svhn has none of the files train800\.txt, val200\.txt, test\.txt"):
        read(load_task("svhn", tmp_path))
    with pytest.raises(DataError, match=r"--data .*nowhere: is not a folder"):
        read(load_task("svhn", tmp_path / "nowhere"))


def test_vtab_lists(tmp_path: Path) -> None:
    save_vtab(tmp_path / "cifar", classes=4)
    data = read(load_task("cifar", tmp_path))
    assert data.task.name == "cifar100"
    assert data.task.classes == tuple(str(k) for k in range(100))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "validation": 10, "test": 10}
    assert data.splits["test"].labels[:5] == (0, 1, 2, 3, 0)
    assert "4 of 100 classes have training examples" in data.notes
    assert "test has 10 examples; cifar100 should have 10,000" in data.notes
    (tmp_path / "cifar/train800val200.txt").write_text("images/train800/000000.png 0\n")
    assert any("does not list the examples of train800 and val200" in note for note in read(data.task).notes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/test/000000.png 4", r"test\.txt: line 11: label: '4' is not one of the classes; allowed: 0, 1, 2, 3"),
        ("images/test/000000.png x", r"test\.txt: line 11: label: 'x' is not one of the classes"),
        ("images/test/99.png 0", r"test\.txt: line 11: the image .*99\.png does not exist"),
        ("images/test/000000.png", r"test\.txt: line 11: .* is not an image and its class number"),
        ("../../secret.png 0", r"test\.txt: line 11: '\.\./\.\./secret\.png' is outside"),
        ("/etc/passwd 0", r"test\.txt: line 11: '/etc/passwd' is outside"),
        ("C:\\x.png 0", r"test\.txt: line 11: 'C:\\\\x\.png' is outside"),
    ],
)
def test_a_wrong_line_of_a_list_is_refused(tmp_path: Path, line: str, message: str) -> None:
    folder = save_vtab(tmp_path / "kitti")
    with (folder / "test.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        read(load_task("kitti", tmp_path))


@pytest.mark.parametrize(
    ("task", "folder", "images"),
    [
        ("cub200", "CUB_200_2011", "images"),
        ("stanford_dogs", "StanfordDogs", "Images"),
        ("oxford_flowers", "OxfordFlower", ""),
    ],
)
def test_fgvc_numbers_classes_from_train(tmp_path: Path, task: str, folder: str, images: str) -> None:
    save_fgvc(tmp_path / folder, images)
    data = read(load_task(task, tmp_path))
    assert data.task.classes == ("3", "7")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "validation": 4, "test": 4}
    assert any(note.startswith("train has 2 classes;") for note in data.notes)
    listed = tmp_path / folder / "test.json"
    listed.write_text(json.dumps({**json.loads(listed.read_text()), "kind.0/test_0.jpg": 5}))
    with pytest.raises(DataError, match=r"test\.json: entry 1: label: '5' is not one of the classes; allowed: 3, 7"):
        read(load_task(task, tmp_path))
    listed.write_text("{")
    with pytest.raises(DataError, match=r"test\.json: cannot be read as JSON"):
        read(load_task(task, tmp_path))
    listed.write_text("[]")
    with pytest.raises(DataError, match=r"test\.json: is not an object with a class for every image"):
        read(load_task(task, tmp_path))
    (tmp_path / folder / "train.json").unlink()
    with pytest.raises(DataError, match=r"train\.json: is missing, and the classes are numbered from it"):
        read(load_task(task, tmp_path))


def test_names_of_suites_tasks_and_folders() -> None:
    sizes = {name: len(find_tasks(name)) for name in ("glue", "VTAB-1k", "vtab1k", "fgvc", "sst2", "SST-2")}
    assert sizes == {"glue": 9, "VTAB-1k": 19, "vtab1k": 19, "fgvc": 5, "sst2": 1, "SST-2": 1}
    vtab = find_tasks("vtab1k")
    assert [sum(t.group == g for t in vtab) for g in ("natural", "specialized", "structured")] == [7, 4, 8]
    with pytest.raises(ConfigError, match=r"task: 'eurosta' is not known; .*nearest: 'eurosat'"):
        find_tasks("eurosta")


def test_a_suite_of_ones_own(tmp_path: Path, reviews: Path) -> None:
    save_vtab(tmp_path / "shades")
    shutil.copy(reviews, tmp_path / "reviews.csv")
    path = tmp_path / "mine.toml"
    path.write_text(
        'suite = "mine"\n'
        '[[tasks]]\nname = "shades"\nkind = "image"\nreader = "vtab-1k"\nfolders = ["shades"]\nroot = "."\n'
        "class_count = 2\n"
        '[[tasks]]\nname = "reviews"\nkind = "text"\nreader = "files"\nfiles = { train = "reviews.csv" }\n'
    )
    shades, texts = load_suite(path)
    assert (shades.suite, texts.suite) == ("mine", "mine")
    assert len(read(shades).splits["test"]) == 10
    assert len(read(texts).splits["test"]) == 12
    assert find_tasks(str(path), tmp_path)[0].root == tmp_path
    path.write_text(path.read_text().replace('name = "reviews"', 'name = "shades"'))
    with pytest.raises(ConfigError, match=r"mine\.toml: two tasks are called 'shades'"):
        load_suite(path)
    path.write_text('suite = "mine"\n[[tasks]]\nname = "a"\nkind = "sound"\nreader = "files"\n')
    with pytest.raises(
        ConfigError, match=r"mine\.toml: tasks\.0\.kind: should be 'text' or 'image' \(received 'sound'\)"
    ):
        find_tasks(str(path))


@pytest.mark.parametrize("name", ["cola", "eurosat", "nabirds"])
def test_without_network_a_sentence_says_what_to_give(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda: False)
    task, began = load_task(name), time.perf_counter()
    with pytest.raises(
        ConfigError, match=rf"cannot be fetched.*pass --data ROOT, .*{task.folders[0]} contains .*train"
    ):
        read(task)
    assert time.perf_counter() - began < 5


def test_the_hubs_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GLUE as parquet files, VTAB as an archive that is unpacked once."""
    import pandas as pd

    (tmp_path / "hub/mnli").mkdir(parents=True)
    table = pd.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [0, 1]})
    for name in ("train", "validation_matched", "validation_mismatched", "test_matched"):
        table.to_parquet(tmp_path / f"hub/mnli/{name}-00000-of-00001.parquet")
    monkeypatch.setattr(layout, "fetch_data", lambda repo, patterns: tmp_path / "hub")
    data = read(load_task("mnli"))
    assert set(data.splits) == {"train", "validation", "mismatched"}
    assert data.splits["mismatched"].inputs == (("a", "c"), ("b", "d"))
    assert data.splits["mismatched"].labels == (2, 0)

    save_vtab(tmp_path / "packed" / "vtab-1k" / "eurosat")
    shutil.make_archive(str(tmp_path / "snapshot" / "vtab-1k"), "gztar", tmp_path / "packed")
    monkeypatch.setattr(layout, "fetch_data", lambda repo, patterns: tmp_path / "snapshot")
    assert len(read(load_task("eurosat")).splits["train"]) == 20
