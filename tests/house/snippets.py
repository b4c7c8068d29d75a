"""Documented snippets as data, and what is wrong with each."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qmtl.settings import Settings

PAGES = ("*.md", "docs/**/*.md", "operations/**/*.md", "examples/**/*.md")
FENCE = re.compile(r"^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = {"console", "sh", "bash", "shell"}
# Taken by `qmtl.cli.app` anywhere on the line, before the command sees it.
GLOBAL_OPTIONS = {"--json", "-q", "--quiet", "-v", "--verbose", "-c", "--config", "--version", "--help"}
# A program's place in a shell line: variables and env before it are skipped.
ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Snippet:
    """One fenced block: page from the root, line it starts on, its language and text."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        """Page and line, as editors open them."""
        return f"{self.page}:{self.line}"


def read_snippets(root: Path) -> list[Snippet]:
    found = []
    for pattern in PAGES:
        for file in sorted(root.glob(pattern)):
            text = file.read_text("utf-8")
            for match in FENCE.finditer(text):
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Snippet(file.relative_to(root), line, match["kind"], match["text"]))
    return found


def python_faults(snippet: Snippet) -> list[str]:
    """A block compiles, and every qmtl name it imports exists."""
    try:
        tree = ast.parse(snippet.text)
    except SyntaxError as error:
        return [f"{snippet}: {error}"]
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "qmtl":
            faults += [
                f"{snippet}: {f}" for f in import_faults(str(node.module), [a.name for a in node.names])
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "qmtl"]
            faults += [f"{snippet}: {f}" for name in names for f in import_faults(name, [])]
    return faults


def import_faults(module: str, names: list[str]) -> list[str]:
    try:
        room = importlib.import_module(module)
    except ImportError as error:
        return [f"cannot import {module}: {error}"]
    return [
        f"{module} has no {name}"
        for name in names
        if not hasattr(room, name) and not is_module(f"{module}.{name}")
    ]


def is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def shell_commands(snippet: Snippet) -> Iterator[list[str]]:
    """The words of every command: after `$ ` in a console block, every line elsewhere."""
    text = re.sub(r"\\\n\s*", " ", snippet.text)
    for line in text.splitlines():
        if snippet.kind == "console" and not line.startswith("$ "):
            continue
        for part in re.split(r"&&|\|\||;|\|", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and (ASSIGNMENT.match(words[0]) or words[0] == "env"):
                words = words[1:]
            if words:
                yield words


def make_targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))


def command_faults(
    words: list[str], group: Any, targets: set[str]
) -> list[str]:  # a click tree, real or vendored
    program = Path(words[0]).name
    if program == "make":
        named = [w for w in words[1:] if "=" not in w and not w.startswith("-")]
        return [f"make has no target {name}" for name in named if name not in targets]
    return command_line_faults(words[1:], group, "qmtl") if program == "qmtl" else []


def command_line_faults(words: list[str], command: Any, name: str) -> list[str]:
    """Walks a click command tree along the words and checks every --option on the way."""
    options = {
        flag for param in command.params for flag in (*param.opts, *param.secondary_opts)
    } | GLOBAL_OPTIONS
    for position, word in enumerate(words):
        if word.startswith("-"):
            if word.split("=")[0] not in options:
                return [f"{name} has no option {word}"]
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return [f"{name} has no command {word}"]
            return command_line_faults(words[position + 1 :], command.commands[word], f"{name} {word}")
    return []


def yaml_faults(snippet: Snippet) -> list[str]:
    """A block parses; one made of qmtl.yml's sections also loads as settings."""
    try:
        body = yaml.safe_load(snippet.text)
    except yaml.YAMLError as error:
        return [f"{snippet}: {error}"]
    if isinstance(body, dict) and body.keys() & Settings.model_fields.keys():
        try:
            Settings.model_validate(body)
        except ValidationError as error:
            return [f"{snippet}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return []
