"""Data of one's own at the command line: checked by `genft data check`, before training, and in predict."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from genft.cli import app
from genft.data import read, task_from_path


def genft(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def checked(*words: object) -> tuple[int, dict[str, list[str]]]:
    done = genft("data", "check", *words, "--json")
    (found,) = json.loads(done.stdout)
    return done.exit_code, found


def test_a_file_of_your_own(reviews: Path, tmp_path: Path) -> None:
    code, found = checked(reviews)
    assert (code, found["faults"], found["classes"]) == (0, [], 2)
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n" + "".join(f"row {k},{('a', 'b', 'nan', '')[k % 4]}\n" for k in range(40)))
    code, found = checked(path, "--text-column", "review", "--label-column", "stars")
    assert code == 1
    assert f"{path}: line 5: no value in the column 'stars'" in found["faults"]
    assert len(found["faults"]) == 20
    assert genft("data", "check", path).exit_code == 1  # no column 'text'


def test_columns_are_named_in_one_word_or_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,body,topic,stars\n" + "".join(f"{k},row {k},t,{k % 2}\n" for k in range(40)))
    code, found = checked(path, "--columns", "text=body,label=stars")
    assert (code, found["notes"][0]) == (0, "columns: 'body' for the text, 'stars' for the label")
    code, found = checked(path)  # two columns may be the label
    assert (code, len(found["faults"])) == (1, 1)
    assert "column: 'label' is missing; allowed: id, body, topic, stars" in found["faults"][0]
    for given, reason in (
        (["--columns", "txt=body"], "--columns: received 'txt=body'; allowed: text=COLUMN,label=COLUMN"),
        (["--columns", "label=a,label=b"], "--columns: received 2 columns for the label; allowed: one"),
        (["--columns", "text=body", "--label-column", "stars"], "--columns: says the same as --text-column"),
    ):
        assert reason in " ".join(genft("data", "check", path, *given).output.split())


def test_a_folder_of_your_own(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "photos")
    assert checked(folder)[0] == 0
    (folder / "dark" / "03.png").write_bytes(b"no image")
    (folder / "dark" / "link.png").symlink_to(tmp_path / "gone.png")
    (folder / "birds").mkdir()
    (folder / "birds" / "1.nef").write_bytes(b"x")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "dark" / "04.png")
    code, found = checked(folder)
    assert code == 1
    for part in (
        "03.png: cannot be read as an image",
        "link.png: is a link to a file",
        "birds: none of its files",
    ):
        assert any(part in fault for fault in found["faults"]), found["faults"]
    assert len(found["faults"]) == 3
    assert "1 image with 16 bits per pixel, scaled to 8" in found["notes"]


def test_contradictions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nSo!,a\nso,b\n" + "".join(f"row {k},{'ab'[k % 2]}\n" for k in range(40)))
    assert any(note.startswith("1 text occurs with different labels (first: ") for note in checked(path)[1]["notes"])


@pytest.mark.timeout(60)
def test_a_pipe_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.csv")
    for words in (("data", "check", tmp_path / "rows.csv"), ("train", tmp_path / "rows.csv", "--model", tmp_path)):
        done = genft(*words)
        assert done.exit_code in (1, 2)


def test_train_checks_first_and_says_so(images: Path, timm_vit: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(images, tmp_path / "photos"), tmp_path / "out"
    (folder / "dark" / "03.png").write_bytes(b"no image")
    done = genft("train", folder, "--model", timm_vit, "--out", out, "--method", "linear", "--epochs", 1)
    assert done.exit_code == 2
    assert "03.png: cannot be read as an image" in done.stderr
    assert "--no-check" in done.stderr
    assert not (out / "checkpoints").exists()
    (folder / "dark" / "03.png").unlink()
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(folder / "dark" / "03.png")
    done = genft("train", folder, "--model", timm_vit, "--out", out, "--method", "linear", "--epochs", 1)
    assert done.exit_code == 0, done.stderr
    assert "1 image with 16 bits per pixel, scaled to 8" in done.stdout

    (adapter,) = (out / "adapters").iterdir()
    (folder / "dark" / "05.png").write_bytes(b"no image")
    (folder / "dark" / "x.nef").write_bytes(b"no image")
    file = tmp_path / "answers.csv"
    done = genft("predict", adapter, "--input", folder / "dark", "--output", file)
    assert done.exit_code == 1
    with file.open(newline="") as rows:
        assert len(list(csv.DictReader(rows))) == 11
    assert "05.png: cannot be read as an image" in done.stdout
    assert "1 of 12 images could not be read" in done.stdout
    assert "1 × .nef" in done.stderr
    done = genft("predict", adapter, "--input", folder / "dark" / "05.png")
    assert done.exit_code == 2
    assert "no image can be read" in done.stderr


def test_no_check_trains_without_looking(images: Path, timm_vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "photos")
    (folder / "dark" / "03.png").write_bytes(b"no image")
    words = ("--model", timm_vit, "--out", tmp_path / "out", "--method", "linear", "--epochs", 1)
    done = genft("train", folder, *words, "--no-check")
    assert done.exit_code == 2
    assert "--no-check" not in done.stderr
    assert "03.png: cannot be read as an image" in done.stderr


@pytest.mark.parametrize("command", [("bench",), ("study", "ablation"), ("search",)], ids=lambda words: words[0])
def test_many_runs_are_checked_once_before_the_first(
    command: tuple[str, ...], images: Path, timm_vit: Path, tmp_path: Path
) -> None:
    """The broken image is one that only tests, which the first run would read at its end."""
    folder = shutil.copytree(images, tmp_path / "photos")
    broken = Path(read(task_from_path(folder)).splits["test"].inputs[0][0])
    broken.write_bytes(b"no image")
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'suite = "mine"\n[[tasks]]\nname = "photos"\nkind = "image"\nreader = "image-folder"\n'
        f'files = {{ train = "{folder}" }}\n'
    )
    tasks = folder if command == ("search",) else suite
    out = tmp_path / "out"
    words = (*command, tasks, "--model", timm_vit, "--out", out, "--epochs", 1)
    done = genft(*words)
    assert done.exit_code == 2
    assert f"{broken}: cannot be read as an image" in done.stderr
    assert "--no-check" in done.stderr
    assert not (out / "checkpoints").exists()


def test_a_bench_tells_what_was_inferred_and_skips_the_check_if_nothing_is_left(
    reviews: Path, bert: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'suite = "mine"\n[[tasks]]\nname = "reviews"\nkind = "text"\nreader = "files"\n'
        f'files = {{ train = "{reviews}" }}\n'
    )
    words = (
        "bench",
        suite,
        "-m",
        bert,
        "--methods",
        "linear",
        "--seeds",
        "0",
        "--epochs",
        1,
        "--out",
        tmp_path / "out",
    )
    inferred = "reviews: classes from the column 'label': bad, good"
    assert inferred in genft(*words).stdout
    assert inferred not in genft(*words).stdout
