"""Strategy references: what is wrong is said in one line with file and line."""

from pathlib import Path

import pytest

from qmtl.runtime.sdk.strategy_file import (
    StrategyFileError,
    find_fault,
    keep_copy,
    load_kept,
    load_source,
)
from tests.runtime.sdk.strategies import BAND_BREAK, walk


def write(folder: Path, text: str, name: str = "band_break.py") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_file_with_one_strategy_needs_no_name(tmp_path: Path) -> None:
    path = write(tmp_path, BAND_BREAK)
    source = load_source(str(path))
    assert source.cls.__name__ == "BandBreak"
    assert source.reference == f"{path}:BandBreak"
    assert source.label == "band_break.py"
    assert load_source(f"{path}:BandBreak").cls is source.cls
    assert load_source("tests.runtime.sdk.strategies:BandBreak").cls.__name__ == "BandBreak"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found\n", r"band_break\.py:1: ModuleNotFoundError: No module named 'nowhere"),
        ("x = 1\nclass A(:\n", r"band_break\.py:2: SyntaxError: "),
        ("x = 1\n", r"band_break\.py: no class that is a Strategy"),
        (
            "from qmtl.runtime.sdk import Strategy\nclass A(Strategy): ...\nclass B(Strategy): ...\n",
            r"band_break\.py: has the strategies A, B; name one as band_break\.py:A",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StrategyFileError, match=message):
        load_source(str(write(tmp_path, text)))


def test_a_missing_file_class_or_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(StrategyFileError, match="no such strategy file"):
        load_source(str(tmp_path / "none.py"))
    path = write(tmp_path, BAND_BREAK)
    with pytest.raises(
        StrategyFileError, match=r"no Strategy class Bandbreak \(strategies there: BandBreak\)"
    ):
        load_source(f"{path}:Bandbreak")
    with pytest.raises(StrategyFileError, match=r"expected file\.py, file\.py:Class or module:Class"):
        load_source("band_break")
    with pytest.raises(StrategyFileError, match="nowhere: ModuleNotFoundError"):
        load_source("nowhere:Class")


def test_an_error_inside_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, BAND_BREAK.replace("ta.mean_std(bars.close, self.window)", "1, 1 / 0"))
    source = load_source(str(path))
    with pytest.raises(ZeroDivisionError) as caught:
        source.cls().signals(walk(30))
    assert find_fault(caught.value, path, "band_break.py") == (
        "band_break.py:16: ZeroDivisionError: division by zero"
    )


def test_a_kept_copy_stands_in_for_a_changed_file(tmp_path: Path) -> None:
    path = write(tmp_path, BAND_BREAK)
    source = load_source(str(path))
    kept = tmp_path / "kept"
    keep_copy(source, kept)
    write(tmp_path, BAND_BREAK.replace("Param(20,", "Param(30,"))
    assert load_source(str(path)).cls().chosen["window"] == 30
    assert load_kept(source.reference, source.sha256, kept).cls().chosen["window"] == 20
    with pytest.raises(StrategyFileError, match="has changed: version"):
        load_kept(source.reference, source.sha256, None)
    path.unlink()
    with pytest.raises(StrategyFileError, match="is gone: version"):
        load_kept(source.reference, "0" * 64, kept)
