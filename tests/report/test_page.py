"""The page in a real browser: what it draws, from the JSON that it carries, without a network."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

import fake_store
from genft.report.boards import Board
from genft.report.collect import Report, read_boards, read_report
from genft.report.page import render
from genft.runs.store import Store, pack, unpack

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

VTAB = {task: {"genft": 0.9, "lora": 0.8, "linear": 0.5} for task in ("eurosat", "dtd", "svhn", "kitti")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("runs")
    store = fake_store.put(out, VTAB)
    fake_store.put(out, {"dtd": {"full": 0.95}}, seeds=(0,))
    fake_store.put(out, {"cola": {"genft": 0.9, "lora": 0.8}}, limit_train=100)
    (out / "figures").mkdir()
    (out / "figures" / "shared_dim.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    report = read_report(store)
    page = render(store, Report(report.boards, ("failed: <b>cola</b>",)))
    (out / "report.html").write_text(page)
    return store


@pytest.fixture(scope="module")
def vtab(store: Store) -> Board:
    return next(board for board in read_boards(store)[0] if board.suite == "vtab1k")


def dom(store: Store, view: str = "", *flags: str) -> str:
    """The page as Chromium has built it, at the address ``#view``."""
    assert CHROMIUM
    address = f"file://{store.out}/report.html" + (f"#{view}" if view else "")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", *flags]
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen = done.stdout.partition('<script type="application/json"')[0]  # without the data and the code behind it
    assert "could not be drawn" not in seen
    return seen


def cells(page: str, method: str) -> list[dict[str, str]]:
    """Per leaderboard that has the method: the texts of its row, by column."""
    found = []
    for row in re.findall(rf'<tr data-method="{re.escape(method)}">(.*?)</tr>', page):
        columns = re.findall(r'<td[^>]*data-column="([^"]*)"[^>]*>(.*?)</td>', row)
        found.append({name: html.unescape(re.sub(r"<[^>]+>", "", text)) for name, text in columns})
    return found


def test_the_page_is_whole_and_asks_for_nothing(store: Store) -> None:
    text = (store.out / "report.html").read_text()

    found: list[str] = []

    class Addresses(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href", "srcset", "action"))

    Addresses().feed(text)
    assert len(found) == 1
    assert found[0].startswith("data:image/svg+xml;base64,")
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "failed: &lt;b&gt;cola" in text


def test_text_in_a_result_cannot_become_markup(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,), model="</script><script>alert(1)</script>")
    page = render(store, read_report(store))
    assert "<script>alert" not in page
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)["boards"][0]["model"] == "</script><script>alert(1)</script>"


@in_a_browser
def test_the_leaderboard_shows_the_means_of_the_report(store: Store, vtab: Board) -> None:
    page = dom(store)
    for label in ("genft", "lora", "linear"):
        row = next(found for found in cells(page, label) if "mean of 4 tasks" in found)
        mean = vtab.mean(label, vtab.common)
        assert row["mean of 4 tasks"] == f"{100 * mean.mean:.2f} ± {100 * mean.deviation:.2f}"
        assert row["mean rank"] == f"{vtab.mean_rank(label):.2f}"
        for group, tasks in vtab.groups.items():
            assert row[f"mean, {group} ({len(tasks)})"] == f"{100 * vtab.mean(label, tasks).mean:.2f}"
    (full,) = cells(page, "full")
    assert (full["mean of 4 tasks"], full["mean rank"], full["svhn"]) == ("–", "–", "–")
    assert full["dtd"].endswith("n=1")
    assert "limited to 100 training examples" in page
    assert "protocol val200" in page
    assert page.count('class="chart"') == 2 * 3 + 5 + 5  # costs, tasks, curves
    assert 'alt="shared dim"' in page
    assert "<dialog open" not in page


@in_a_browser
def test_axes_have_titles_epochs_are_whole_and_headings_are_words(store: Store) -> None:
    page = dom(store)
    titles = re.findall(r'<text class="title"[^>]*>(.*?)</text>', page)
    assert {"epoch", "mean score × 100", "peak memory", "seconds per step"} <= set(titles)
    assert {"matthews × 100, selection split", "accuracy × 100, selection split"} <= set(titles)
    for chart in re.findall(r'aria-label="[^"]* after every epoch">(.*?)</svg>', page, re.DOTALL):
        across = re.findall(r'<text x="[^"]*" y="206" text-anchor="middle">(.*?)</text>', chart)
        assert across == ["1", "2", "3", "4"]
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", page)
    assert len(headings) > 5
    assert not [heading for heading in headings if "<" in heading]


@in_a_browser
def test_what_is_not_finite_or_constant_is_said_and_not_ranked(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {task: {"genft": 0.9, "lora": 0.8, "linear": 0.5} for task in ("rte", "sst2")})
    lora, linear = (next(r for r in store if (r.task, r.method) == ("rte", name)) for name in ("lora", "linear"))
    store.put(lora.model_copy(update={"scores": lora.scores.model_copy(update={"value": float("nan")})}))
    store.put(linear.model_copy(update={"predictions": pack(np.zeros_like(unpack(linear.predictions)))}))
    (tmp_path / "report.html").write_text(render(store, read_report(store)))
    page = dom(store)
    ((lora_row,), (linear_row,), (genft_row,)) = (cells(page, name) for name in ("lora", "linear", "genft"))
    assert (lora_row["rte"], lora_row["mean rank"], lora_row["mean of 2 tasks"]) == ("not finite", "–", "–")
    assert linear_row["rte"].endswith("1 constant")
    assert (genft_row["mean rank"], linear_row["mean rank"]) == ("1.00", "2.00")
    assert "lora on rte has no finite score" in page


@in_a_browser
def test_filters_change_what_means_are_over(store: Store, vtab: Board) -> None:
    view = f"methods={quote(json.dumps(['genft', 'lora']))}&groups={quote(json.dumps(['VTAB-1k natural']))}"
    page = dom(store, view)
    assert not cells(page, "linear")
    (row,) = cells(page, "lora")
    natural = vtab.groups["natural"]
    assert row["mean of 2 tasks"].startswith(f"{100 * vtab.mean('lora', natural).mean:.2f} ±")
    assert row["mean rank"] == "2.00"
    assert "GLUE with" not in page
    assert "Nothing to show" in dom(store, f"protocols={quote('[]')}")


@in_a_browser
def test_a_run_is_one_address_away(store: Store) -> None:
    run = next(r for r in store if (r.task, r.method, r.seed) == ("cola", "lora", 1))
    page = dom(store, f"run={run.key}", "--window-size=390,800")
    panel = html.unescape(re.sub(r"<[^>]+>", " ", page[page.index("<dialog") :]))
    assert 'open=""' in page[page.index("<dialog") :][:200]
    assert (
        "genft train cola --data data --model models/tiny --method lora --limit-train 100 --seed 1 --epochs 4" in panel
    )
    assert f"{100 * run.scores.value:.2f}" in panel
    assert "60.09: GenFT paper (arXiv 2506.11042v1) Table 3, roberta-base" in panel
    assert "limited to 100 training examples" in panel
    assert "torch 2.14.1" in panel
