"""What the pages tell people to type exists."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.house.snippets import (
    SHELL,
    Snippet,
    command_faults,
    make_targets,
    python_faults,
    read_snippets,
    shell_commands,
    yaml_faults,
)
from tests.house.tree import ROOT, plant


@pytest.fixture(scope="module")
def qmtl_command() -> Any:
    """The command tree of `qmtl`, as click sees it."""
    typer_main = importlib.import_module("typer.main")
    return typer_main.get_command(importlib.import_module("qmtl.cli.app").build())


def test_python_snippets_compile_and_import() -> None:
    snippets = [s for s in read_snippets(ROOT) if s.kind == "python"]
    assert [fault for s in snippets for fault in python_faults(s)] == []


def test_yaml_snippets_parse() -> None:
    snippets = [s for s in read_snippets(ROOT) if s.kind in {"yaml", "yml"}]
    assert [fault for s in snippets for fault in yaml_faults(s)] == []


def test_shell_snippets_name_known_commands_and_options(qmtl_command: Any) -> None:
    targets = make_targets(ROOT)
    snippets = [s for s in read_snippets(ROOT) if s.kind in SHELL]
    assert snippets, "the pages document no command at all"
    faults = [
        f"{s}: {fault}"
        for s in snippets
        for words in shell_commands(s)
        for fault in command_faults(words, qmtl_command, targets)
    ]
    assert faults == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.ko.md")), ids=lambda page: page.name)
def test_translated_pages_show_the_same_code(page: Path) -> None:
    english = Path(page.name.replace(".ko.md", ".md"))
    blocks = {
        p: [(s.kind, s.text) for s in read_snippets(ROOT) if s.page == p] for p in (english, Path(page.name))
    }
    assert blocks[Path(page.name)] == blocks[english]


def test_faulty_snippets_are_found(tmp_path: Path) -> None:
    page = "```python\nfrom qmtl.nowhere import X\n```\n```python\nif x\n```\n"
    page += "```yaml\na: [1\n```\n```yaml\nrisk:\n  max_los: 1\n```\n"
    plant(tmp_path, "README.md", page)
    first, second, third, fourth = read_snippets(tmp_path)
    assert "cannot import qmtl.nowhere" in python_faults(first)[0]
    assert str(second) == "README.md:5"
    assert "README.md:5" in python_faults(second)[0]
    assert "README.md:8" in yaml_faults(third)[0]
    assert "risk.max_los" in yaml_faults(fourth)[0]


def test_unknown_commands_and_options_are_found() -> None:
    flag = SimpleNamespace(opts=["--speed"], secondary_opts=["--no-speed"])
    demo = SimpleNamespace(params=[flag])
    group = SimpleNamespace(params=[], commands={"demo": demo})
    lines = [
        "$ qmtl demo --speed 60 file",
        "qmtl output --bad",
        "$ X=1 qmtl dmo && qmtl demo \\",
        "  --sped 60",
    ]
    text = "\n".join([*lines, "$ make tests ARGS=-q", ""])
    snippet = Snippet(Path("README.md"), 1, "console", text)
    faults = [f for words in shell_commands(snippet) for f in command_faults(words, group, {"test"})]
    assert faults == ["qmtl has no command dmo", "qmtl demo has no option --sped", "make has no target tests"]
