"""Indicators remembered in sweeps: same arrays in, same arrays out, and never a wrong one."""

import numpy as np
import pytest

from qmtl.runtime.sdk import ta
from qmtl.runtime.sdk.bars import Floats
from qmtl.runtime.sdk.memo import Memo, remembering


def columns(count: int = 3, rows: int = 500) -> list[Floats]:
    draw = np.random.default_rng(1)
    return [draw.normal(100, 1, rows) for _ in range(count)]


def test_a_kernel_on_a_known_column_is_computed_once() -> None:
    close, high, _ = columns()
    plain = ta.mean_std(close, 20)
    with remembering(Memo([close, high])) as memo:
        first, again = ta.mean_std(close, 20), ta.mean_std(close, 20)
        assert first[0] is again[0]
        assert memo.hits == 1
        assert ta.mean_std(high, 20)[0] is not first[0]
        assert ta.mean_std(close, 21)[0] is not first[0]
        assert ta.ema(first[0], 5) is ta.ema(again[0], 5)
        assert memo.hits == 2
    assert all((a == b)[20:].all() for a, b in zip(first, plain, strict=True))
    assert ta.mean_std(close, 20)[0] is not first[0]


def test_what_is_computed_in_between_is_not_remembered_by() -> None:
    close, _, _ = columns()
    with remembering(Memo([close])) as memo:
        assert ta.sma(close * 2, 5) is not ta.sma(close * 2, 5)
        assert ta.sma(close.tolist(), 5) is not ta.sma(close.tolist(), 5)
        assert memo.hits == 0


def test_remembered_arrays_cannot_be_written() -> None:
    close, _, _ = columns()
    with remembering(Memo([close])):
        mean = ta.sma(close, 5)
        with pytest.raises(ValueError, match="read-only"):
            mean += 1
    ta.sma(close, 5)[0] = 1.0


def test_dropped_results_are_never_taken_for_new_ones() -> None:
    close, _, _ = columns()
    with remembering(Memo([close], limit=40_000)) as memo:
        for window in [*range(2, 40), *range(2, 40)]:
            mean = ta.sma(close, window)
            again = ta.ema(mean, 3)
            assert (again == ta.ema(np.array(mean), 3))[100:].all()
        assert len(memo._results) <= 10
