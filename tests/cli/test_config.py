"""--config: a run in a file; the command line wins over it, and the file beside an adapter repeats its run."""

import json
import shutil
from pathlib import Path

import pytest

from command_line import call, ok


def refused(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def run_toml(reviews: Path, bert: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        f'task = "{reviews}"\nmodel = "{bert}"\ntext-column = "text"\nepochs = 1\nbatch_size = 16\nregression = false\n'
        "learning_rate = 1\n[settings]\nshared_dim = 4\nspecific-dim = 1\n"
    )
    return path


def test_the_command_line_wins_and_origins_are_told(run_toml: Path) -> None:
    words = ("explain", "--config", run_toml, "--learning-rate", 0.01, "--set", "specific_dim=2")
    run, settings, training, _ = json.loads(ok(*words, "--json")).values()
    assert training["epochs"] == {"value": 1, "from": str(run_toml)}
    assert training["learning_rate"] == {"value": 0.01, "from": "command line"}
    assert settings["shared_dim"] == {"value": 4, "from": str(run_toml)}
    assert settings["specific_dim"] == {"value": 2, "from": "command line"}
    assert run["task"]["from"] == run["model"]["from"] == run["text columns"]["from"] == str(run_toml)
    assert run["seed"]["from"] == "default"


def test_the_file_beside_an_adapter_repeats_its_run(run_toml: Path, reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    ok("train", "--config", run_toml, "--out", out, "--learning-rate", 0.01, "--label-smoothing", 0.1, "--seed", 3)
    (adapter,) = (out / "adapters").iterdir()
    again = ok("train", "--config", adapter / "genft_run.toml", "--out", out)
    assert "This run is already finished" in again
    other = json.loads(ok("explain", "--config", adapter / "genft_run.toml", "--seed", 4, "--json"))
    assert other["Run"]["key of the result"]["value"] not in adapter.name


def test_explain_writes_the_run(reviews: Path, bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "written.toml"
    table = shutil.copy(reviews, tmp_path / 'of "mine", here.csv')
    words = ("explain", table, "-m", bert, "--method", "lora", "--set", "target_modules=query,value", "--json")
    key = json.loads(ok(*words, "--write", file, "--max-length", 12))["Run"]["key of the result"]
    assert "learning_rate = 0.001" not in file.read_text()
    assert "head_learning_rate = 0.005  # preset default" in file.read_text()
    assert 'target_modules = ["query", "value"]' in file.read_text()
    assert json.loads(ok("explain", "--config", file, "--json"))["Run"]["key of the result"] == key


def test_a_task_that_generates_text(decoder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"w{k} is", "reply": f"w{k % 9}"} for k in range(40)]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    words = ("explain", tmp_path / "qa.json", "-m", decoder, "--json", "--write", tmp_path / "run.toml")
    asked = ("--family", "generation", "--label-column", "reply", "--template", r"{question}\n", "--max-new-tokens", 3)
    key = json.loads(ok(*words, *asked))["Run"]["key of the result"]
    assert json.loads(ok("explain", "--config", tmp_path / "run.toml", "--json"))["Run"]["key of the result"] == key


@pytest.mark.parametrize("row", [{"text": "w1", "label": ["a", "b"]}, {"tokens": ["w1", "w2"], "tags": ["B-A", "O"]}])
def test_every_family_writes_its_runs(row: dict[str, object], bert: Path, tmp_path: Path) -> None:
    file, table = tmp_path / "run.toml", tmp_path / "own.jsonl"
    table.write_text("".join(json.dumps({**row, "id": k}) + "\n" for k in range(40)))
    key = json.loads(ok("explain", table, "-m", bert, "--json", "--write", file))["Run"]["key of the result"]
    assert 'family = "' in file.read_text()
    assert json.loads(ok("explain", "--config", file, "--json"))["Run"]["key of the result"] == key


def test_bench_from_a_file(reviews: Path, bert: Path, tmp_path: Path) -> None:
    suite = tmp_path / "support.toml"
    suite.write_text(f'name = "tickets"\nkind = "text"\nreader = "files"\nfiles = {{ train = "{reviews}" }}\n')
    file = tmp_path / "bench.toml"
    content = f'tasks = ["{suite}"]\nmodel = "{bert}"\nmethods = ["linear", "bitfit"]\nseeds = [0, 1]\nepochs = 1\n'
    file.write_text(content + "dry_run = true\n")
    shown = ok("bench", "--config", file, "--out", tmp_path / "runs", "--methods", "linear")
    assert "methods   linear\n" in shown
    assert "runs      2, 0 finished" in shown
    file.write_text(content + "[settings]\nr = 2\n")
    assert "settings: this command has no --set" in refused("bench", "--config", file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch = 3", "key: 'epoch' is no option of this command;"),
        ('epochs = "three"', "epochs: Input should be a valid integer"),
        ("epochs = true", "epochs: received True; allowed: a value"),
        ("regression = 1", "regression: received 1; allowed: true or false"),
        ("epochs = { a = 1 }", "epochs: received {'a': 1}; allowed: a text, a number, true or false"),
        ("epochs = 0", "training: epochs: "),
        ("settings = 3", "settings: must be a table"),
        ("epochs = ", "is not valid TOML"),
        ("config = 'other.toml'", "key: 'config' is no option"),
    ],
)
def test_mistakes_are_one_sentence(line: str, message: str, reviews: Path, bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'task = "{reviews}"\nmodel = "{bert}"\n{line}\n')
    assert message in refused("train", "--config", file, "--out", tmp_path / "runs")


def test_explain_reads_a_file_of_train(run_toml: Path) -> None:
    run_toml.write_text('out = "runs"\nagain = true\n' + run_toml.read_text())
    ok("explain", "--config", run_toml)
    assert "--model" in refused("train", run_toml)  # without the option, a .toml file is a task
