"""Files, functions and the whole stay small enough to read."""

import ast
import io
import tokenize
from pathlib import Path

from tests.house.tree import ROOT, Source, plant, read_sources

ROOMS = ("qmtl", "tests", "bench", "examples")
FILE_LINES, FUNCTION_LINES, PRODUCT_LINES = 400, 70, 18_000


def oversized(root: Path) -> list[str]:
    found = []
    for source in read_sources(root, *ROOMS):
        lines = source.text.count("\n")
        if lines > FILE_LINES:
            found.append(f"{source.path}: {lines} lines, allowed {FILE_LINES}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    where = f"{source.path}:{node.lineno} {node.name}"
                    found.append(f"{where}: {lines} lines, allowed {FUNCTION_LINES}")
    return found


def code_lines(source: Source) -> int:
    """Lines that hold code: no blank line, comment or docstring."""
    prose = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in prose:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def product_lines(root: Path) -> int:
    return sum(code_lines(source) for source in read_sources(root, "qmtl"))


def test_files_and_functions_are_small() -> None:
    assert oversized(ROOT) == []


def test_product_is_small() -> None:
    assert 0 < product_lines(ROOT) < PRODUCT_LINES


def test_a_long_file_and_a_long_function_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "qmtl/long.py", "x = 1\n" * (FILE_LINES + 1))
    plant(tmp_path, "tests/test_long.py", "def scenario():\n" + "    x = 1\n" * FUNCTION_LINES)
    assert [line.split(":")[0] for line in oversized(tmp_path)] == ["qmtl/long.py", "tests/test_long.py"]
    assert product_lines(tmp_path) == FILE_LINES + 1


def test_prose_is_not_counted_as_code(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "qmtl/a.py",
        '"""Module.\n\nMore.\n"""\n\n# why\nx = """a\nb"""\n\n\ndef f():\n    """Does."""\n    return x\n',
    )
    assert product_lines(tmp_path) == 4
