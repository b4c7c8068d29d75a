"""What the product imports is what it declares: extras only inside the function that needs them."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.tree import ROOT, Source, plant, read_sources

# Released together with a declared one, and part of its documented interface; PyJWT takes and gives the keys
# of cryptography, which its extra `crypto` brings.
COMPANIONS = {
    "pydantic": "pydantic-core",
    "aiohttp": "yarl",
    "fastapi": "starlette",
    "pyjwt": "cryptography",
}


def declared(root: Path) -> tuple[set[str], set[str]]:
    """Distributions of a plain install, and of the extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [text for extra in project.get("optional-dependencies", {}).values() for text in extra]
    both = (project["dependencies"], extras)
    plain, extra = ({str(canonicalize_name(Requirement(text).name)) for text in texts} for texts in both)
    return plain | {COMPANIONS[name] for name in plain & COMPANIONS.keys()}, extra


def third_party_imports(source: Source) -> Iterator[tuple[int, str, bool]]:
    """Line, top-level package, and whether it is imported when the module is."""
    inside = {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            if not getattr(node, "level", 0) and top not in sys.stdlib_module_names and top != "qmtl":
                yield node.lineno, top, id(node) not in inside


def undeclared(root: Path) -> list[str]:
    plain, extra = declared(root)
    homes = packages_distributions()
    found = []
    for source in read_sources(root, "qmtl"):
        guarded = type_checking_lines(source)
        for line, top, is_eager in third_party_imports(source):
            owners = {canonicalize_name(name) for name in homes.get(top, [top])}
            allowed = plain if is_eager and line not in guarded else plain | extra
            if not owners & allowed:
                found.append(f"{source.path}:{line}: imports {top}")
    return found


def type_checking_lines(source: Source) -> set[int]:
    lines = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_imports_are_declared() -> None:
    assert undeclared(ROOT) == []


def test_undeclared_imports_are_found(tmp_path: Path) -> None:
    project = '[project]\ndependencies = ["msgspec>=1"]\noptional-dependencies = {frames = ["pandas"]}\n'
    plant(tmp_path, "pyproject.toml", project)
    plant(tmp_path, "qmtl/core/bar.py", "import msgspec\nimport pandas\ndef f():\n    import pandas\n")
    plant(
        tmp_path,
        "qmtl/core/typed.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n",
    )
    plant(tmp_path, "qmtl/core/money.py", "def f():\n    import yaml.nodes\n")
    assert undeclared(tmp_path) == [
        "qmtl/core/bar.py:2: imports pandas",
        "qmtl/core/money.py:2: imports yaml",
    ]
