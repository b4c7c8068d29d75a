"""The project's own sources as data, for the checks of this room."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root, its module name, text and syntax tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module


@cache
def parse(path: Path, text: str) -> ast.Module:
    """The syntax tree, made once however many checks ask for it; nobody changes it."""
    return ast.parse(text, filename=str(path))


def read_sources(root: Path, *rooms: str) -> list[Source]:
    """Every Python file under the named rooms of a project root, parsed."""
    sources = []
    for room in rooms:
        for file in sorted((root / room).rglob("*.py")):
            path = file.relative_to(root)
            if any(part.startswith(".") for part in path.parts):
                continue
            parts = path.with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text(encoding="utf-8")
            sources.append(Source(path, module, text, parse(path, text)))
    return sources


def tracked_files(root: Path) -> list[Path]:
    """Files that are or would be committed, from the root; every file where there is no repository."""
    if not (root / ".git").exists():
        return [p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file()]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.split("\0") if name and (root / name).is_file()]


def plant(root: Path, path: str, text: str) -> Path:
    """Writes one file of a planted project and gives the project's root."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return root
