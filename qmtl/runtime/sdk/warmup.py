"""How many closed bars the signals of one set of parameters need, found by cutting the past."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.core.instrument import parse_symbol
from qmtl.core.interval import parse_interval
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.signal_reader import check, masks
from qmtl.runtime.sdk.signals import COLUMNS, Signals
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.strategy_file import StrategySource

_FIRST, _LARGEST = 2_048, 131_072
"""Bars of the probe: doubled until half of them are more than is needed."""
_EACH, _ANY, _EVERY = 8, 16, 1_440
_WORK = 300_000
"""Probed bars: so many with each signal, so many others, and in the end up to so many one after the other,
so that no more than _WORK bars are computed."""


def find_warmup(source: StrategySource, strategy: Strategy, symbols: Sequence[str] = ("BTCUSDT",)) -> int:
    """Return the bars `signals` is given live, the deciding one among them.

    What the strategy declares, else what `NAME.lint.json` beside its file holds for these parameters, else
    what is measured, which is then kept there. StrategyError when its signals never settle.
    """
    if strategy.warmup is not None:
        return strategy.warmup
    path = lint_path(source)
    key = dump_values(strategy)
    record = read_record(path, source.sha256)
    if key not in record["warmup"]:
        record["warmup"][key] = measure_warmup(strategy, symbols)
        write_record(path, record)
    return int(record["warmup"][key])


def lint_path(source: StrategySource) -> Path | None:
    """Return where what was measured of a strategy is kept: beside its file, nowhere for a module's."""
    is_file = source.reference.rpartition(":")[0].endswith(".py")
    return source.path.with_name(f"{source.path.stem}.lint.json") if is_file else None


def dump_values(strategy: Strategy) -> str:
    """Return a set of parameters as the key it has in the record: `window=20 inner=1.0`."""
    return " ".join(f"{name}={value}" for name, value in strategy.chosen.items()) or "-"


def read_record(path: Path | None, sha256: str) -> dict[str, Any]:
    """Return the record of a strategy file in the version `sha256`; an empty one when there is none."""
    fresh: dict[str, Any] = {"sha256": sha256, "warmup": {}}
    if path is None or not path.is_file():
        return fresh
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError:
        return fresh
    is_ours = isinstance(record, dict) and record.get("sha256") == sha256
    return record if is_ours and isinstance(record.get("warmup"), dict) else fresh


def write_record(path: Path | None, record: dict[str, Any]) -> None:
    """Keep the record, where its place can be written."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError:
        # Measured again next time: a folder that cannot be written is no reason not to trade.
        return


def measure_warmup(strategy: Strategy, symbols: Sequence[str] = ("BTCUSDT",)) -> int:
    """Return the least number of last bars on which the signals equal those of a whole seeded history.

    Where a signal never comes in a calm history a rough one is looked at too.
    """
    needed = 0
    for is_rough in (False, True):
        whole, found = _measure(strategy, symbols, is_rough=is_rough)
        needed = max(needed, found)
        if is_heard(whole):
            break
    return needed


def _measure(strategy: Strategy, symbols: Sequence[str], *, is_rough: bool) -> tuple[Signals, int]:
    count = _FIRST
    while count <= _LARGEST:
        bars = probe_market(count, symbols, strategy.interval, is_rough=is_rough)
        whole = check(strategy, bars)
        found = _settle(strategy, bars, whole, _points(whole, count))
        if found:
            return whole, found
        count *= 4
    raise StrategyError(
        f"{type(strategy).__name__}: signals depend on bars to come, or on more than {_LARGEST // 2:,} past"
        " ones; ta kernels do neither"
    )


def is_enough(
    strategy: Strategy, length: int, symbols: Sequence[str] = ("BTCUSDT",), *, is_thorough: bool = False
) -> bool:
    """Tell whether the last `length` bars give the signals that a whole seeded history gives.

    `is_thorough` looks at one row after the other too, as a measurement does.
    """
    count = max(_FIRST, 4 * length)
    for is_rough in (False, True):
        bars = probe_market(count, symbols, strategy.interval, is_rough=is_rough)
        whole = check(strategy, bars)
        if not _agree(strategy, bars, whole, _points(whole, count), length):
            return False
        if is_thorough and _find_odd(strategy, bars, whole, length) is not None:
            return False
        if is_heard(whole):
            break
    return True


def is_heard(whole: Signals) -> bool:
    """Tell whether each signal was seen: of one that never was, nothing is known."""
    return all(getattr(whole, name).any() for name in COLUMNS)


def probe_market(count: int, symbols: Sequence[str], interval: str, *, is_rough: bool) -> Bars:
    """Return a seeded market of the first symbol that knows those of the others."""
    names = [parse_symbol(symbol) for symbol in symbols] or ["BTCUSDT"]
    first, *others = (probe_bars(count, name, interval, is_rough=is_rough) for name in names)
    return first.with_others({bars.symbol: bars for bars in others}) if others else first


def probe_bars(count: int, symbol: str, interval: str, *, is_rough: bool = False) -> Bars:
    """Return a seeded market of `count` candles that begins on a Monday.

    It moves by a thousandth a bar, or with `is_rough` by anything from that to some percent, in bursts.
    """
    random = np.random.default_rng(sum(symbol.encode()))
    size = 10.0 ** random.uniform(0.0, 1.5, count) if is_rough else np.ones(count)
    change = random.normal(0.0, 0.001, count) * size
    close = np.round(50_000.0 * np.exp(np.cumsum(change)), 1)
    # Opens away from the close before: who reads the next open must be seen to.
    opened = np.append(50_000.0, close[:-1]) + np.round(random.normal(0.0, 0.0002, count) * close, 1)
    reach = np.round(np.abs(random.normal(0.0, 0.0005, (2, count))) * size * close, 1)
    high, low = np.maximum(opened, close) + reach[0], np.minimum(opened, close) - reach[1]
    times = 1_700_438_400_000 + np.arange(count, dtype=np.int64) * parse_interval(interval)
    volume = random.lognormal(3.0, 1.0, count)
    return Bars(times, opened, high, low, close, volume, symbol=symbol, interval=interval)


def _points(whole: Signals, count: int) -> list[int]:
    """Return the rows to probe: late ones, some with each signal."""
    late = np.arange(count // 2, count)
    chosen = set(np.linspace(count // 2, count - 1, _ANY).astype(int).tolist())
    for column in (whole.long, whole.short, whole.exit_long, whole.exit_short):
        rows = late[column[late]]
        chosen.update(rows[np.linspace(0, len(rows) - 1, _EACH).astype(int)].tolist() if len(rows) else [])
    return sorted(chosen)


def _agree(strategy: Strategy, bars: Bars, whole: Signals, points: list[int], length: int) -> bool:
    expected = masks(whole)
    for row in points:
        start = max(0, row + 1 - length)
        part = check(strategy, bars.slice(start, row + 1))
        if masks(part)[-1] != expected[row]:
            return False
        for name, line in whole.plot.items():
            if name not in part.plot or part.plot[name][-1:].tobytes() != line[row : row + 1].tobytes():
                return False
    return True


def _settle(strategy: Strategy, bars: Bars, whole: Signals, points: list[int]) -> int:
    """Return the least length that agrees at `points` and at each of the last rows, 0 where none does."""
    count = len(bars)
    while _agree(strategy, bars, whole, points, count // 2):
        length = _least(strategy, bars, whole, points, count // 2)
        odd = _find_odd(strategy, bars, whole, length)
        if odd is None:
            return length
        points = [odd, *points]
    return 0


def _find_odd(strategy: Strategy, bars: Bars, whole: Signals, length: int) -> int | None:
    """Return the first of the last rows at which `length` bars do not agree."""
    count = len(bars)
    # Longer candles within have phases that samples miss; long windows are probed at fewer bars.
    rows = range(count - min(_EVERY, count // 4, max(60, _WORK // length)), count)
    return next((row for row in rows if not _agree(strategy, bars, whole, [row], length)), None)


def _least(strategy: Strategy, bars: Bars, whole: Signals, points: list[int], enough: int) -> int:
    """Return the least length that agrees, between 1 and `enough`, which does."""
    low, high, reach = 0, enough, 1
    while reach < enough:
        if _agree(strategy, bars, whole, points, reach):
            high = reach
            break
        low, reach = reach, reach * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _agree(strategy, bars, whole, points, middle):
            high = middle
        else:
            low = middle
    return high
