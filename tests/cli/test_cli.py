"""The command line, as a person and as a script use it."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import call, ok
from genft import DataError, __version__, load_adapter
from genft.cli import demo
from genft.cli.screen import print_json
from genft.data import load_task
from genft.methods import METHODS
from genft.runs.settings import Training
from saved_models import save_reviews


def refused(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    return result.stderr


QUICK = ("--epochs", 2, "--batch-size", 8)


@pytest.fixture
def trained(reviews: Path, bert: Path, tmp_path: Path) -> Path:
    """The adapter of a finished run."""
    ok("train", reviews, "--model", bert, "--out", tmp_path / "runs", *QUICK)
    (folder,) = (tmp_path / "runs" / "adapters").iterdir()
    return folder


def test_version() -> None:
    assert ok("--version").strip() == __version__


def test_train_tells_what_it_does(reviews: Path, bert: Path, tmp_path: Path) -> None:
    shown = ok("train", reviews, "--model", bert, "--out", tmp_path, *QUICK)
    for expected in (
        "reviews: 2 classes; 44 train, 4 validation, 12 test",
        "classes from the column 'label': bad, good",
        "test: a fifth of the training rows, held out with a fixed seed",
        "validation selects the epoch, test reports",
        "2 epochs of 6 steps, batch 8, learning rate 0.001",
        "query ×2, key ×2, value ×2, dense ×6",
        "34 of the head (classifier)",
        "epoch   1   accuracy",
        "95 % interval",
        "Use it: genft predict",
    ):
        assert expected in shown


def test_a_finished_run_is_shown_again_and_not_repeated(reviews: Path, bert: Path, tmp_path: Path) -> None:
    words = ("train", reviews, "--model", bert, "--out", tmp_path, "--method", "linear", *QUICK)
    ok(*words)
    (file,) = (tmp_path / "results").glob("*.json")
    written = file.stat().st_mtime_ns
    assert "already finished" in ok(*words)
    assert file.stat().st_mtime_ns == written
    shutil.rmtree(tmp_path / "adapters")
    shown = ok(*words)
    assert "does not exist. --again repeats the run" in shown
    assert "Use it" not in shown
    assert "already finished" not in ok(*words, "--again")
    assert list((tmp_path / "adapters").iterdir())
    assert file.stat().st_mtime_ns > written


def test_train_json_is_for_scripts(reviews: Path, bert: Path, tmp_path: Path) -> None:
    found = json.loads(
        ok("train", reviews, "--model", bert, "--out", tmp_path, "--method", "lora", "--set", "r=2", "--json", *QUICK)
    )
    assert found["counts"]["adapter"] == 2 * 2 * 2 * (16 + 16)
    assert found["spec"]["settings"] == {"r": 2}
    assert (tmp_path / found["adapter"] / "adapter_model.safetensors").is_file()


def test_a_task_of_ones_own(reviews: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\nkind = "text"\nreader = "files"\nclasses = ["good", "bad"]\n'
        f'metric = "macro_f1"\n[files]\ntrain = "{reviews.name}"\n'
    )
    (tmp_path / reviews.name).write_bytes(reviews.read_bytes())
    found = json.loads(ok("train", tmp_path / "mine.toml", "--model", bert, "--out", tmp_path, "--json", *QUICK))
    assert (found["task"], found["scores"]["metric"]) == ("mine", "macro_f1")
    assert found["spec"]["task"]["classes"] == ["good", "bad"]


def test_limited_runs_say_so(reviews: Path, bert: Path, tmp_path: Path) -> None:
    shown = ok("train", reviews, "--model", bert, "--out", tmp_path, "--limit-train", 20, *QUICK)
    assert "limited data: not comparable" in shown


def test_predict_writes_rows_labels_and_probabilities(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = save_reviews(tmp_path / "new.csv", rows=25, seed=7)
    shown = ok("predict", trained, "--input", new)
    assert "The first 20 of 25 rows." in shown
    assert "All 25 rows with their predictions saved to new.predicted.csv" in shown
    ok("predict", trained, "--input", new, "--output", tmp_path / "out.csv")
    assert (tmp_path / "new.predicted.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads(ok("predict", trained, "--input", new, "--json"))
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in found]
    assert len(found) == 25
    for row, answer in zip(rows, found, strict=True):
        of_class = answer["probabilities"]
        assert list(of_class) == ["bad", "good"]
        assert sum(of_class.values()) == pytest.approx(1)
        assert answer["probability"] == of_class[answer["predicted"]] == max(of_class.values())
        assert {name: float(row[f"probability of {name}"]) for name in of_class} == of_class
    assert all(row["predicted"] in ("bad", "good") and 0.5 <= row["probability"] <= 1 for row in found)
    assert [row["text"] for row in rows] == [row["text"] for row in found]


def test_predict_with_other_column_names(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"review": "good w1"}\n')
    error = refused("predict", trained, "--input", tmp_path / "new.jsonl")
    assert "'text' is missing; allowed: review; name the column with --text-column" in error
    ok("predict", trained, "--input", tmp_path / "new.jsonl", "--text-column", "review", "--json")


def test_predict_writes_over_neither_its_input_nor_anything_but_files(trained: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text\ngood w1\n")
    words = ("predict", trained, "--input", rows, "--output")
    for link in (rows, tmp_path / "link.csv"):
        if link != rows:
            link.symlink_to(rows)
        assert f"--output: {link} is the input, which would be replaced" in refused(*words, link)
    assert rows.read_text() == "text\ngood w1\n"
    assert "/dev/null: is not a regular file" in refused(*words, "/dev/null")


def test_outputs_that_are_not_finite_are_no_predictions(trained: Path, reviews: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "huge")
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    save_file({k: torch.full_like(v, 3e38) if "classifier" in k else v for k, v in state.items()}, file)
    for form in ((), ("--json",)):
        error = refused("predict", folder, "--input", reviews, *form, "--output", tmp_path / "out.csv")
        assert "(first: input 1) are NaN or infinite, which is no prediction" in error
    assert not (tmp_path / "out.csv").exists()


def test_numbers_that_are_none_are_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"score": math.nan, "interval": (1.0, -math.inf), "name": "nan"})
    assert json.loads(capsys.readouterr().out) == {"score": None, "interval": [1.0, None], "name": "nan"}


def test_predict_images(images: Path, timm_vit: Path, tmp_path: Path) -> None:
    ok("train", images, "--model", timm_vit, "--out", tmp_path, *QUICK)
    (folder,) = (tmp_path / "adapters").iterdir()
    found = json.loads(ok("predict", folder, "--input", images / "dark", "--json"))
    assert len(found) == 12
    assert {row["predicted"] for row in found} <= {"bright", "dark"}
    assert len(json.loads(ok("predict", folder, "--input", images / "dark" / "00.png", "--json"))) == 1
    assert "does not exist" in refused("predict", folder, "--input", tmp_path / "nothing.png")


def test_predict_refuses_what_is_no_adapter(tmp_path: Path, reviews: Path) -> None:
    assert "genft_task.json: is missing" in refused("predict", tmp_path, "--input", reviews)


def test_explain_names_the_origin_of_every_value(reviews: Path, bert: Path) -> None:
    words = ("explain", reviews, "--model", bert, "--set", "shared_dim=4", "--epochs", 3, "--seed", 2)
    found = json.loads(ok(*words, "--json"))
    run, settings, training, inferred = found.values()
    assert set(training) == set(Training.model_fields)
    assert settings["shared_dim"] == {"value": 4, "from": "command line"}
    assert settings["specific_dim"]["from"] == "default"
    assert training["epochs"] == {"value": 3, "from": "command line"}
    assert training["learning_rate"]["from"] == "preset default, for genft"
    assert run["seed"] == {"value": 2, "from": "command line"}
    assert run["method"] == {"value": "genft", "from": "default"}
    assert run["classes"] == {"value": ["bad", "good"], "from": "inferred from the training data"}
    assert inferred["adapted modules"]["value"] == ["query ×2", "key ×2", "value ×2", "dense ×6"]
    assert inferred["head parameters"]["value"] == 34
    assert settings["w0_ratio"]["value"] is None
    assert inferred["w0_ratio"] == {"value": pytest.approx(4, rel=0.1), "from": "the model and the steps"}
    shown = ok(*words)
    assert "command line" in shown
    assert "inferred from the training data" in shown


def test_explain_and_train_agree_on_the_key(reviews: Path, bert: Path, tmp_path: Path) -> None:
    words = (reviews, "--model", bert, *QUICK)
    key = json.loads(ok("explain", *words, "--json"))["Run"]["key of the result"]["value"]
    assert json.loads(ok("train", *words, "--out", tmp_path, "--json"))["key"] == key


def test_lists() -> None:
    shown = ok("list", "methods")
    assert all(name in shown for name in METHODS)
    headings = ("In the tables of GenFT's paper", "genft ", "Relatives", "svft", "Other methods", "dora")
    assert [shown.index(text) for text in headings] == sorted(shown.index(text) for text in headings)
    assert {m["name"] for m in json.loads(ok("list", "methods", "--json"))} == set(METHODS)
    assert "bbc-news" in ok("list", "tasks")
    assert json.loads(ok("list", "tasks", "--json"))[0]["classes"]
    assert "minilm-l6" in ok("list", "models")
    assert json.loads(ok("list", "models", "--json"))[0]["hub"]
    settings = json.loads(ok("list", "methods", "genft", "--json"))
    assert settings["shared_dim"]["type"] == "a whole number"
    assert settings["shared_dim"]["help"].split()[0] in ok("list", "methods", "genft")
    assert "has no settings" in ok("list", "methods", "full")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "bbc-nws", "-m", "x"), "nearest: 'bbc-news'"),
        (("train", "nothing.csv", "-m", "x"), "nothing.csv: does not exist"),
        (("train", "bbc-news", "-m", "x", "--method", "loar"), "method: 'loar' is not known;"),
        (("train", "bbc-news", "-m", "x", "--preset", "defualt"), "preset: 'defualt' is not known;"),
        (("train", "bbc-news", "-m", "x", "--set", "shred_dim=3"), "nearest: 'shared_dim'"),
        (("train", "bbc-news", "-m", "x", "--epochs", "0"), "training: epochs: should be greater than or equal to 1"),
        (("train", "bbc-news", "-m", "x", "--metric", "acuracy"), "metric: 'acuracy' cannot score this task"),
        (("train", "bbc-news", "-m", "x", "--protocol", "tset"), "protocol: 'tset' is not known"),
        (("train", "bbc-news", "-m", "x", "--text-column", "a"), "--text-column: only for your own files"),
        (("train", "bbc-news", "-m", "./nowhere"), "model: the folder ./nowhere does not exist"),
        (("list", "methods", "genfft"), "method: 'genfft' is not known;"),
        (("predict", "nowhere", "--input", "x.csv"), "nowhere: does not exist"),
        (("predict", "."), "--input: is missing; give a file with rows"),
        (("show", "nowhere"), "nowhere: does not exist"),
        (("merge", "nowhere", "--out", "x"), "nowhere: does not exist"),
        (("train", "bbcnews", "-m", "x"), "task: 'bbcnews' is not known;"),
        (("train", "tickets.cvs", "-m", "x"), "tickets.cvs: does not exist"),
        (("train", "x", "-m", "x", "--lr", "1e-3"), "--lr: is called --learning-rate in genft"),
        (("train", "x", "-m", "x", "--learning_rate=1e-3"), "--learning_rate: is called --learning-rate in genft"),
        (("train", "x", "-m", "x", "--device", "tpu"), "--device: received 'tpu'; allowed: cpu, cuda, cuda:N"),
        (("train", "x", "-m", "x", "--output-dir", "o"), "--output-dir: is called --out in genft"),
        (("train", "--dataset", "x", "-m", "x"), "--dataset: name the task or the file as the first argument"),
        (("train", "x", "-m", "x", "--lora-r", "4"), "use --set r=VALUE"),
        (("list", "method"), "list: 'method' is not known; allowed: methods, tasks, models; nearest: 'methods'"),
        (("list", "tasks", "glue"), "list tasks: takes no name (received 'glue')"),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = ("--out", tmp_path) if words[0] == "train" else ()
    error = refused(*words, *out)
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_problems_of_a_configuration_are_all_told(reviews: Path, bert: Path, tmp_path: Path) -> None:
    words = ("--set", "act_row=gleu", "--set", "shared_dim=-1", "--set", "dropout=1.5")
    error = refused("train", reviews, "--model", bert, "--out", tmp_path, *words)
    assert error.count("error: ") == 3
    assert "act_row: 'gleu' is not known; allowed: identity, relu, leaky_relu, gelu, tanh; nearest: 'gelu'" in error


def test_an_output_that_cannot_be_written(reviews: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("train", reviews, "--model", bert, "--out", tmp_path / "file" / "x")


def test_the_nearest_file_and_folder_are_named(trained: Path, reviews: Path) -> None:
    wrong = reviews.with_suffix(".cvs")
    assert f"{wrong}: does not exist; nearest: '{reviews.name}'" in refused("train", wrong, "-m", "x")
    near = trained.with_name(trained.name[:-1])
    assert f"{near}: does not exist; nearest: '{trained}'" in refused("predict", near, "--input", reviews)


@pytest.fixture
def three_classes(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    path.write_text(
        "text,label\n" + "".join(f"w{n} ticket,{('billing', 'login', 'refund')[n % 3]}\n" for n in range(60))
    )
    return path


def test_a_metric_that_does_not_fit_the_classes_is_refused_before_any_work(three_classes: Path, bert: Path) -> None:
    words = ("train", three_classes, "-m", bert, "--out", three_classes.parent)
    error = refused(*words, "--metric", "f1")
    assert "metric: 'f1' cannot score this task (it needs 2 classes); allowed: accuracy, macro_f1" in error
    assert "nearest: 'f1'" not in refused(*words, "--metric", "f2")
    assert "query ×2" not in error


def test_a_protocol_of_another_suite_is_refused(three_classes: Path, bert: Path) -> None:
    words = ("train", three_classes, "-m", bert, "--out", three_classes.parent)
    error = refused(*words, "--protocol", "val200")
    assert "protocol: 'val200' is for vtab1k, and tickets belongs to no benchmark; allowed: holdout, " in error


def test_labels_that_join_several_are_refused(three_classes: Path, bert: Path) -> None:
    three_classes.write_text(three_classes.read_text() + "both,billing;refund\n")
    error = refused("train", three_classes, "-m", bert, "--out", three_classes.parent)
    assert "labels such as 'billing;refund' look like several labels in one" in error
    assert error.count("\n") == 1


def test_explain_calls_an_inferred_metric_inferred(three_classes: Path, bert: Path) -> None:
    run = json.loads(ok("explain", three_classes, "-m", bert, "--json"))["Run"]
    assert run["metric"] == {"value": "accuracy", "from": "default for what is predicted"}
    assert run["text columns"] == {"value": ["text"], "from": "default"}
    run = json.loads(ok("explain", three_classes, "-m", bert, "--metric", "macro_f1", "--json"))["Run"]
    assert run["metric"] == {"value": "macro_f1", "from": "command line"}


def test_ctrl_c_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from genft.cli import request

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(request, "load_task", interrupt)
    result = call("train", "bbc-news", "-m", "x")
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted: ")


def test_the_demo_compares_and_reuses(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo as it is, on a small model and small data instead of MiniLM-L6 and BBC News."""
    task = load_task("bbc-news").model_copy(
        update={"reader": "files", "files": {"train": reviews}, "classes": (), "sizes": {}}
    )
    monkeypatch.setattr("genft.data.load_task", lambda _: task)
    monkeypatch.setattr(demo, "MODEL", str(bert))
    monkeypatch.setattr(demo, "METHODS", ("genft", "not-registered", "linear"))
    shown = ok("demo", "--out", tmp_path)
    for expected in ("2 runs, about", "genft", "linear", "interval: 95 %", "bytes", "nearly saturated"):
        assert expected in shown
    assert "not-registered" not in shown
    assert len(list((tmp_path / "adapters").iterdir())) == 2
    again = ok("demo", "--out", tmp_path)
    assert again.count("already finished, reused") == 2
    assert "runs, about" not in again
    assert len(json.loads(ok("demo", "--out", tmp_path, "--json"))) == 2
    assert "100 training documents" in ok("demo", "--help")


def test_python_m_genft() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genft", "list", "tasks", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)[0]["name"] == "bbc-news"
    assert not done.stderr  # libraries advise on import


def test_errors_survive_processes() -> None:
    import pickle

    assert str(pickle.loads(pickle.dumps(DataError("a.csv: is empty")))) == "a.csv: is empty"


def test_a_list_of_texts_is_a_list_of_texts(trained: Path) -> None:
    adapter = load_adapter(trained)
    texts = ["good w1 w2", "bad w3"]
    assert adapter.predict(texts).tolist() == adapter.predict([(text,) for text in texts]).tolist()
    with pytest.raises(DataError, match="received one text; give a list of texts"):
        adapter.predict("good w1")
    with pytest.raises(DataError, match=r"inputs\[1\]: has 2 values; allowed: text"):
        adapter.predict(["good", ("good", "bad")])
