"""`genft show`: what is read from saved adapters, and what the figures hold."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from PIL import Image
from typer.testing import CliRunner, Result

from families import FAMILIES
from genft import BitFitConfig, ConfigError, GenFTConfig, VectorFitConfig
from genft.adapters import merge
from genft.cli import app
from genft.figures import FIGURES, draw, heatmap, maps, read_subject, read_subjects, vectorfit
from genft.figures.positions import Position, name_positions
from genft.figures.style import style
from genft.figures.updates import WeightUpdate, weight_updates
from genft.methods.vector_freezing import HISTORY_FILE

LORA = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False)
CONFIGS: dict[str, Any] = {
    "genft": GenFTConfig(task_type="SEQ_CLS", shared_dim=3, specific_dim=1, init_weights=False),
    "lora": LORA,
    "dora": LoraConfig(**(LORA.to_dict() | {"use_dora": True})),
    "ia3": IA3Config(target_modules=["key", "value"], feedforward_modules=[], init_ia3_weights=False),
    "vectorfit": VectorFitConfig(task_type="SEQ_CLS", init_weights=False),
}


@pytest.fixture(scope="module")
def adapters(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that peft alone has written, and one of VectorFit with a history of freezing."""
    out = tmp_path_factory.mktemp("adapters")
    for name, config in CONFIGS.items():
        torch.manual_seed(1)
        base = hf.BertForSequenceClassification.from_pretrained(bert, num_labels=2)
        model = get_peft_model(base, copy.deepcopy(config))
        model.save_pretrained(out / name)
        if name == "vectorfit":
            vectors = list(model.base_model.own_parameters("default"))
            first = [v for v in vectors if "layer.0" in v and "query" in v]
            history = {
                "vectors": vectors,
                "events": [
                    {"step": 10 * n, "frozen": first, "strength": [n + 0.01 * i for i in range(len(vectors))]}
                    for n in (1, 2)
                ],
            }
            (out / name / HISTORY_FILE).write_text(json.dumps(history))
    return {name: out / name for name in CONFIGS}


def read(*folders: Path) -> Any:
    return read_subjects(folders, num_labels=2)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", CONFIGS)
def test_delta_is_what_merging_adds(name: str) -> None:
    base = FAMILIES["bert"].build()
    before = {path: w.detach().clone() for path, w in base.state_dict().items()}
    model = get_peft_model(base, copy.deepcopy(CONFIGS[name]))
    updates = list(weight_updates(model))
    assert all(torch.equal(w, before[k]) for k, w in merge_nothing(model).items() if k in before)
    merged = merge(model).state_dict()
    for u in updates:
        assert torch.equal(u.w0, before[f"{u.site}.weight"])
        torch.testing.assert_close(u.w0 + u.delta, merged[f"{u.site}.weight"], rtol=1e-4, atol=1e-5)
        assert u.delta.norm() > 0
    changed = [k for k, w in merged.items() if w.dim() == 2 and not torch.equal(w, before.get(k, w))]
    assert sorted(changed) == sorted(f"{u.site}.weight" for u in updates)


def merge_nothing(model: PeftModel) -> dict[str, torch.Tensor]:
    return {k.replace("base_model.model.", "").replace(".base_layer", ""): v for k, v in model.state_dict().items()}


@pytest.mark.parametrize("family", ["timm", "gpt2"])
def test_fused_weights_by_their_slices(family: str) -> None:
    f = FAMILIES[family]
    leaf = "qkv" if family == "timm" else "c_attn"
    whole = get_peft_model(f.build(), LoraConfig(r=2, target_modules=[leaf], init_lora_weights=False))
    sliced = get_peft_model(f.build(), GenFTConfig(scope="qv", init_weights=False))
    places = [name_positions(u.site for u in weight_updates(m)) for m in (whole, sliced)]
    assert [{p.target for p in found.values()} for found in places] == [{"q", "k", "v"}, {"q", "v"}]
    for u in weight_updates(whole):
        assert u.delta.shape == u.w0.shape == (32, 32)


def test_places_have_the_shortest_names_that_tell_them_apart() -> None:
    bert = "bert.encoder.layer.11."
    names = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    assert list(name_positions(bert + n for n in names).values()) == [
        Position(target, 11) for target in ("query", "attention.output", "intermediate", "output")
    ]
    t5 = name_positions(f"{s}.block.1.layer.0.SelfAttention.q" for s in ("encoder", "decoder"))
    assert len(set(t5.values())) == 2
    assert {p.layer for p in t5.values()} == {1}
    assert name_positions(["score"]) == {"score": Position("score", 0)}


def test_measures() -> None:
    q, _ = torch.linalg.qr(torch.randn(8, 8))
    p, _ = torch.linalg.qr(torch.randn(6, 6))

    def update(*sigma: float) -> WeightUpdate:
        return WeightUpdate("w", torch.eye(8, 6), (q[:, : len(sigma)] * torch.tensor(sigma)) @ p[:, : len(sigma)].T)

    u = update(3.0, 1.0)
    torch.testing.assert_close(u.spectrum, torch.tensor([3.0, 1.0], dtype=torch.float64), rtol=1e-5, atol=0)
    assert u.relative_norm == pytest.approx((10 / 6) ** 0.5, rel=1e-5)
    assert update(2.0, 2.0, 2.0).effective_rank == pytest.approx(3.0, rel=1e-4)
    assert 1 < u.effective_rank < 2
    assert update(0.0).effective_rank == 0.0


def test_the_same_method_twice_is_told_apart_by_folder(adapters: dict[str, Path], tmp_path: Path) -> None:
    first, second = read(adapters["lora"], adapters["dora"])
    assert (first.label, second.label) == ("lora", "dora")  # the folders: both are of peft's type LORA
    assert read_subject(adapters["dora"], num_labels=2).label == "lora"


# ---------------------------------------------------------------- what is drawn


def test_every_figure_of_two_methods(adapters: dict[str, Path], tmp_path: Path) -> None:
    written = draw(read(adapters["genft"], adapters["lora"]), tmp_path)
    assert set(written) == set(FIGURES) - {"sigma", "freezing"}
    assert {p.name for p in tmp_path.iterdir()} == {p.name for paths in written.values() for p in paths}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 400, path
            assert len(image.convert("L").getcolors() or ()) > 4, path


def test_vectorfit_as_svg(adapters: dict[str, Path], tmp_path: Path) -> None:
    written = draw(read(adapters["vectorfit"]), tmp_path, only=["sigma", "freezing", "rank"], format="svg")
    assert set(written) == {"sigma", "freezing", "rank"}
    assert "after step 20" in written["freezing"][0].read_text(encoding="utf-8")
    assert "attention.output" in written["rank"][0].read_text(encoding="utf-8")


def test_freezing_is_drawn_where_it_happened(adapters: dict[str, Path]) -> None:
    (subject,) = read(adapters["vectorfit"])
    with style():
        ((ending, figure),) = vectorfit.freezing([subject], [], [])
    panels = [axis for axis in figure.axes if axis.images and axis.get_title()]
    assert (ending, [axis.get_title() for axis in panels]) == ("", ["after step 10", "after step 20"])
    columns = [label.get_text() for label in panels[0].get_xticklabels()]
    assert columns[:4] == ["query σ", "query b", "key σ", "key b"]
    dots = panels[0].collections[0].get_offsets()
    assert sorted(map(tuple, dots)) == [(0, 0), (1, 0)]  # σ and b of the first layer's query
    table = np.asarray(panels[1].images[0].get_array())
    assert table.shape == (2, 12)
    assert table[0, 0] == pytest.approx(2.0)
    assert table[1, 11] == pytest.approx(2.23)
    assert panels[0].images[0].norm is panels[1].images[0].norm


@pytest.mark.parametrize("n", [1, 4, 5, 7])
def test_panels_may_leave_a_row_unfinished(adapters: dict[str, Path], n: int) -> None:
    """Four targets in rows of three, seven freezings in rows of five: what is left over is not drawn."""
    (subject,) = read(adapters["vectorfit"])
    assert subject.history is not None
    events = tuple(subject.history.events[i % 2].model_copy(update={"step": i}) for i in range(n))
    subject = dataclasses.replace(subject, history=subject.history.model_copy(update={"events": events}))
    targets = subject.targets()[:n]
    with style():
        ((_, frozen),) = vectorfit.freezing([subject], [], [])
        drawn = [kind.draw([subject], targets, [0, 1]) for name, kind in FIGURES.items() if name != "freezing"]
        figures = [figure for figures in drawn for _, figure in figures]
        for figure in (frozen, *figures):
            figure.canvas.draw()
    assert [axis.get_title() for axis in frozen.axes if axis.get_title()] == [f"after step {i}" for i in range(n)]
    titles = [[axis.get_title() for axis in figure.axes if axis.get_title()] for figure in figures]
    assert [found for found in titles if found == targets]  # spectra, cosine, sigma


def test_every_axis_has_a_title(adapters: dict[str, Path]) -> None:
    subjects = read(adapters["genft"], adapters["lora"])
    with style():
        for name in ("spectra", "cosine", "profiles", "weights"):
            for _, figure in FIGURES[name].draw(subjects, ["query"], [0, 1]):
                first, *_ = figure.axes
                assert figure.get_supxlabel() or any(axis.get_xlabel() for axis in figure.axes), name
                assert figure.get_supylabel() or first.get_ylabel(), name


def test_what_is_compared_has_one_scale(adapters: dict[str, Path]) -> None:
    subjects = read(adapters["genft"], adapters["lora"])
    with style():
        ((_, figure),) = maps.weights(subjects, ["query"], [0, 1])
    limits = [axis.images[0].get_clim() for axis in figure.axes[:10]]
    assert len(set(limits)) == 2  # of weights, and of updates
    assert limits[:3] == [limits[0]] * 3
    (w0, sums) = (np.asarray(axis.images[0].get_array()) for axis in (figure.axes[0], figure.axes[1]))
    update = subjects[0].updates[Position("query", 0)]
    assert np.allclose(w0, update.w0)
    assert np.allclose(sums, update.w0 + update.delta)


def test_large_matrices_are_averaged() -> None:
    matrix = torch.arange(900.0)[:, None].expand(900, 3)
    pooled = heatmap.pooled(matrix)
    assert pooled.shape == (300, 3)
    assert np.allclose(pooled[0], 1.0)
    assert np.allclose(pooled[-1], 898.0)


# ---------------------------------------------------------------- the command


def call(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, [str(w) for w in words])


def show(*words: object) -> Result:
    return call("show", *words, "--num-labels", 2)


def test_the_command_prints_numbers_and_where_figures_are(adapters: dict[str, Path], tmp_path: Path) -> None:
    both = (adapters["genft"], "--against", adapters["lora"], "--out", tmp_path, "--only", "norms,rank")
    result = show(*both)
    assert result.exit_code == 0, result.stderr
    assert "query" in result.stdout
    assert "norms.png" in result.stdout
    found = json.loads(show(*both, "--json").stdout)
    assert [a["label"] for a in found["adapters"]] == ["genft", "lora"]
    ranks = [w["effective_rank"] for w in found["adapters"][1]["weights"]]
    assert len(ranks) == 4
    assert all(1 < r <= 2 for r in ranks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("genft", "--only", "spektra"), "only: 'spektra' is not known; allowed: weights,"),
        (("genft", "--only", "sigma"), "only: sigma: genft has nothing to show"),
        (
            ("genft", "--targets", "kye"),
            "targets: 'kye' is not adapted; allowed: query, key, value, attention.output, intermediate, output; "
            "nearest: 'key'",
        ),
        (("genft", "--layers", "7"), "layers: 7 is not adapted; allowed: 0, 1"),
        (("genft", "--layers", "last"), "layers: received 'last'; allowed: layer numbers"),
        (("genft", "--format", "gif"), "format: 'gif' is not known; allowed: png, svg, pdf"),
    ],
)
def test_mistakes_are_one_sentence(
    adapters: dict[str, Path], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = show(adapters[words[0]], *words[1:], "--out", tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1


def test_what_has_no_delta_is_said(bert: Path, tmp_path: Path) -> None:
    configs = {
        "bitfit changes no linear weight": BitFitConfig(task_type="SEQ_CLS"),
        "prompt_tuning learns a prompt": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
    }
    for n, (message, config) in enumerate(configs.items()):
        base = hf.BertForSequenceClassification.from_pretrained(bert, num_labels=2)
        get_peft_model(base, config).save_pretrained(tmp_path / str(n))
        with pytest.raises(ConfigError, match=message):
            read_subject(tmp_path / str(n), num_labels=2)
    result = call("show", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere: does not exist" in result.stderr


def test_another_base_is_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    from saved_models import save_bert

    base = hf.BertForSequenceClassification.from_pretrained(save_bert(tmp_path / "base"), num_labels=2)
    with torch.no_grad():
        base.bert.encoder.layer[0].attention.self.query.weight.add_(1.0)
    base.save_pretrained(tmp_path / "base")
    get_peft_model(base, copy.deepcopy(LORA)).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"other: .*query of its base model differs from that of"):
        read(adapters["genft"], tmp_path / "other")


def test_a_damaged_history_is_said(adapters: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(adapters["vectorfit"], folder)
    for content in ("{", "[]", '{"vectors": ["a.b"], "events": [{"step": 1, "frozen": [], "strength": []}]}'):
        (folder / HISTORY_FILE).write_text(content)
        result = show(folder)
        assert result.exit_code == 2
        assert f"{HISTORY_FILE}: is damaged" in result.stderr
