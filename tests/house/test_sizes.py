"""Files, functions and the whole stay small enough to read."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

from tests.house.tree import ROOT, Source, plant, read_sources

ROOMS = ("qmtl", "tests", "bench", "examples")
FILE_LINES, FUNCTION_LINES = 400, 70
# Code lines by room; docs/decisions/0004 says why by room and not one number for all.
BUDGETS = {
    "qmtl/core": 1_700,
    "qmtl/engine": 7_900,
    "qmtl/runtime": 20_500,
    "qmtl/trader": 2_400,
    "qmtl/services/paper_exchange": 5_000,
    "qmtl/services": 5_000,
    "qmtl/cli": 5_000,
    "qmtl/research": 1_500,
    "qmtl": 2_200,
}


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


def room_lines(root: Path) -> Counter[str]:
    """Code lines by room of BUDGETS; a file counts in the longest room that holds it."""
    lines: Counter[str] = Counter()
    rooms = sorted(BUDGETS, key=len, reverse=True)
    for source in read_sources(root, "qmtl"):
        room = next(room for room in rooms if str(source.path).startswith(f"{room}/"))
        lines[room] += code_lines(source)
    return lines


def test_files_and_functions_are_small() -> None:
    assert oversized(ROOT) == []


def test_rooms_keep_their_budgets() -> None:
    lines = room_lines(ROOT)
    assert {room: count for room, count in lines.items() if count > BUDGETS[room]} == {}
    assert lines["qmtl/core"] > 0


def test_a_long_file_and_a_long_function_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "qmtl/long.py", "x = 1\n" * (FILE_LINES + 1))
    plant(tmp_path, "tests/test_long.py", "def scenario():\n" + "    x = 1\n" * FUNCTION_LINES)
    assert [line.split(":")[0] for line in oversized(tmp_path)] == ["qmtl/long.py", "tests/test_long.py"]
    assert room_lines(tmp_path) == {"qmtl": FILE_LINES + 1}


def test_prose_is_not_counted_as_code(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "qmtl/a.py",
        '"""Module.\n\nMore.\n"""\n\n# why\nx = """a\nb"""\n\n\ndef f():\n    """Does."""\n    return x\n',
    )
    assert room_lines(tmp_path) == {"qmtl": 4}
