"""What the candles say, as booleans: Bollinger bands and realised volatility, each with two faces.

`update` takes one candle or price at a time; `evaluate` takes a whole frame. Both give the same booleans,
because the frame face adds the same numbers in the same order (see `qmtl.core.indicator`). A closing
update is decided before it is folded into the bands: it is compared with the bands of the candle
before it. numpy loads inside the frame face only.
"""

from collections import deque
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Any, Protocol

from qmtl.core.event import PriceUpdated
from qmtl.core.indicator import CANCELLED, RealizedVolatility, RollingExtremes, RollingMoments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

PAST = 5
"""How many closed candles the PAST booleans look back."""

Levels = tuple[float, float, float, float, float]
"""Close, upperInter, upperBand, lowerInter, lowerBand of one closed candle."""

_UNKNOWN: Levels = (0.0, 0.0, 0.0, 0.0, 0.0)


class Candle(Protocol):
    """A closed candle: a Bar or a BarClosed."""

    @property
    def open_ms(self) -> int:
        """When it opened."""

    @property
    def close(self) -> float:
        """Its last price."""


class BBConditional:
    """Where closes and the price stand against Bollinger bands: mean ± k·std (ddof=1) of `window` closes.

    `upperInter` and `lowerInter` lie `inner` deviations from the mean, `upperBand` and `lowerBand`
    `outer`. Until the window is full every boolean is False. `rt_close` is the price judged last.
    """

    def __init__(
        self, window: int = 20, inner: float = 1.0, outer: float = 2.0, *, interval_ms: int = 60_000
    ) -> None:
        if not 0 < inner <= outer:
            raise ValueError(f"inner, outer: expected 0 < inner <= outer, got {inner} and {outer}")
        self.window, self.inner, self.outer = window, inner, outer
        self.interval_ms = interval_ms
        self.rt_close = 0.0
        # Close, upperInter, upperBand, lowerInter, lowerBand of the last closed candle and of the one
        # before it; zeros until they exist.
        self.levels: Levels = _UNKNOWN
        self.levels_before: Levels = _UNKNOWN
        self._moments = RollingMoments(window)
        self._recent: deque[Levels] = deque(maxlen=PAST)
        self._past: dict[str, tuple[bool, ...]] | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether the bands exist."""
        return self._moments.is_full

    @property
    def past(self) -> dict[str, tuple[bool, ...]]:
        """The PAST booleans of the last five closed candles, newest last."""
        past = self._past
        if past is None:
            recent = self._recent
            missing = (False,) * (PAST - len(recent))
            past = self._past = {
                "PASTcloses_gt_upperInter_5t": (*missing, *(row[0] > row[1] for row in recent)),
                "PASTcloses_gt_upperBand_5t": (*missing, *(row[0] > row[2] for row in recent)),
                "PASTcloses_lt_lowerInter_5t": (*missing, *(row[0] < row[3] for row in recent)),
                "PASTcloses_lt_lowerBand_5t": (*missing, *(row[0] < row[4] for row in recent)),
            }
        return past

    @property
    def closes(self) -> "Floats":
        """Closes of the last closed candles that have bands, at most five, newest last."""
        return self._column(0)

    @property
    def upperInter(self) -> "Floats":
        """Upper inner band of the same candles."""
        return self._column(1)

    @property
    def upperBand(self) -> "Floats":
        """Upper outer band of the same candles."""
        return self._column(2)

    @property
    def lowerInter(self) -> "Floats":
        """Lower inner band of the same candles."""
        return self._column(3)

    @property
    def lowerBand(self) -> "Floats":
        """Lower outer band of the same candles."""
        return self._column(4)

    def update(self, update: Candle | PriceUpdated | float) -> dict[str, Any]:
        """Return the booleans at a price; a closed candle is decided first, then folded."""
        if isinstance(update, float | int):
            return self.judge(float(update))
        conditions = self.judge(update.close)
        if not isinstance(update, PriceUpdated):
            self.fold(update.open_ms, update.close)
        return conditions

    def judge(self, price: float) -> dict[str, Any]:
        """Return PAST (tuples of five) and CURR booleans with `price` as the current price."""
        self.rt_close = price
        _, upper_inner, upper, lower_inner, lower = self.levels
        is_full = self._moments.is_full
        return {
            **self.past,
            "CURRclose_gt_upperInter": is_full and price > upper_inner,
            "CURRclose_gt_upperBand": is_full and price > upper,
            "CURRclose_lt_lowerInter": is_full and price < lower_inner,
            "CURRclose_lt_lowerBand": is_full and price < lower,
        }

    def fold(self, open_ms: int, close: float) -> None:
        """Take the close of the candle that opened at `open_ms` into the bands."""
        moments = self._moments
        moments.push(open_ms // self.interval_ms, close)
        if not moments.is_full:
            return
        mean, std = moments.mean, moments.std
        near, far = self.inner * std, self.outer * std
        self.levels_before = self.levels
        self.levels = levels = (close, mean + near, mean + far, mean - near, mean - far)
        self._recent.append(levels)
        self._past = None

    def _column(self, column: int) -> "Floats":
        import numpy as np

        return np.array([row[column] for row in self._recent], dtype=np.float64)

    def measure(self, frame: Any) -> "dict[str, Floats]":
        """Return mean, std and the four bands of every row, NaN until the window is full.

        `frame` is a pandas or polars frame, or a mapping, of closed candles with `close` and
        `open_ms` (or `startTime`), times in UTC milliseconds.
        """
        numbers, closes = _read_frame(frame, self.interval_ms)
        mean, std = rolling_moments(numbers, closes, self.window)
        near, far = self.inner * std, self.outer * std
        return {
            "mean": mean,
            "std": std,
            "upperInter": mean + near,
            "upperBand": mean + far,
            "lowerInter": mean - near,
            "lowerBand": mean - far,
        }

    def evaluate(self, frame: Any) -> "dict[str, Bools]":
        """Return for every row what `update` says of that closed candle: CURR (n,), PAST (n, 5)."""
        import numpy as np

        closes = _read_frame(frame, self.interval_ms)[1]
        bands = self.measure(frame)
        result: dict[str, Bools] = {}
        for band, sign in (("upperInter", 1), ("upperBand", 1), ("lowerInter", -1), ("lowerBand", -1)):
            name = f"{'gt' if sign > 0 else 'lt'}_{band}"
            level = bands[band] * sign
            # A comparison with NaN is False: nothing leaks before the window is full.
            beyond = np.concatenate([np.zeros(PAST, dtype=bool), closes * sign > level])
            windows = np.lib.stride_tricks.sliding_window_view(beyond, PAST)
            result[f"PASTcloses_{name}_5t"] = windows[: len(closes)].copy()
            result[f"CURRclose_{name}"] = np.concatenate([[False], closes[1:] * sign > level[:-1]])[
                : len(closes)
            ]
        return result

    def dump(self) -> dict[str, Any]:
        """Return plain data from which `load` restores."""
        return {"moments": self._moments.dump(), "recent": [list(row) for row in self._recent]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `dump` returned."""
        self._moments.load(state["moments"])
        rows: list[Levels] = [(row[0], row[1], row[2], row[3], row[4]) for row in state["recent"]]
        self._recent = deque(rows, maxlen=PAST)
        self.levels_before, self.levels = [_UNKNOWN, _UNKNOWN, *rows][-2:]
        self._past = None


class RVConditional:
    """Realised volatility over `window` returns, and its extremes over the `horizon` values before.

    Until `window` returns and `horizon` earlier values were seen, all three are False (0).
    """

    def __init__(self, window: int = 10, horizon: int = 20, *, interval_ms: int = 60_000) -> None:
        self.window, self.horizon = window, horizon
        self.interval_ms = interval_ms
        self._volatility = RealizedVolatility(window)
        self._extremes = RollingExtremes(horizon)
        self._seen = 0

    @property
    def is_full(self) -> bool:
        """Tell whether volatility and its extremes exist."""
        return self._seen > self.horizon

    def update(self, update: Candle | PriceUpdated | float) -> dict[str, float]:
        """Return currentRV, maxRV, minRV of the closed candles; a closed candle is folded after."""
        conditions = self.judge()
        if not isinstance(update, float | int | PriceUpdated):
            self.fold(update.open_ms, update.close)
        return conditions

    def judge(self) -> dict[str, float]:
        """Return currentRV, maxRV and minRV as of the last closed candle."""
        if self._seen <= self.horizon:
            return {"currentRV": False, "maxRV": False, "minRV": False}
        extremes = self._extremes
        return {
            "currentRV": self._volatility.value,
            "maxRV": extremes.highest,
            "minRV": extremes.lowest,
        }

    def fold(self, open_ms: int, close: float) -> None:
        """Take the close of the candle that opened at `open_ms`."""
        volatility = self._volatility
        if volatility.is_full:
            self._extremes.push(volatility.value)
        volatility.push(open_ms // self.interval_ms, close)
        if volatility.is_full:
            self._seen += 1

    def measure(self, frame: Any) -> "dict[str, Floats]":
        """Return currentRV, maxRV, minRV of every row, that row folded; NaN until they exist."""
        import numpy as np

        numbers, closes = _read_frame(frame, self.interval_ms)
        current = _rolling_volatility(numbers, closes, self.window)
        highest = np.full(len(closes), np.nan)
        lowest = highest.copy()
        if len(closes) > self.horizon:
            windows = np.lib.stride_tricks.sliding_window_view(current[:-1], self.horizon)
            highest[self.horizon :] = windows.max(axis=1)
            lowest[self.horizon :] = windows.min(axis=1)
        return {"currentRV": current, "maxRV": highest, "minRV": lowest}

    def evaluate(self, frame: Any) -> "dict[str, Floats]":
        """Return for every row what `update` says of that closed candle; 0 until all three exist."""
        import numpy as np

        measured = self.measure(frame)
        is_known = ~np.isnan(measured["maxRV"])
        result = {}
        for name, values in measured.items():
            known = np.where(is_known, values, 0.0)
            result[name] = np.concatenate([[0.0], known[:-1]])[: len(known)]
        return result

    def dump(self) -> dict[str, Any]:
        """Return plain data from which `load` restores."""
        return {
            "volatility": self._volatility.dump(),
            "extremes": self._extremes.dump(),
            "seen": self._seen,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `dump` returned."""
        self._volatility.load(state["volatility"])
        self._extremes.load(state["extremes"])
        self._seen = state["seen"]


def _read_frame(frame: Any, interval_ms: int) -> "tuple[Ints, Floats]":
    import numpy as np

    names = list(frame.columns) if hasattr(frame, "columns") else list(frame)
    times = next((name for name in ("open_ms", "startTime") if name in names), None)
    if times is None or "close" not in names:
        raise ValueError(f"frame: expected columns close and open_ms (or startTime), got {', '.join(names)}")
    closes = np.asarray(frame["close"], dtype=np.float64)
    return np.asarray(frame[times], dtype=np.int64) // interval_ms, closes


def _lanes(numbers: "Ints", window: int, first: int) -> "tuple[Ints, Ints]":
    """Rows where the incremental kernel sums its window anew by the clock, and how far each one reaches."""
    import numpy as np

    anew = numbers % window == 0
    anew[:first] = False
    anew[first] = True
    starts = np.flatnonzero(anew)
    return starts, np.diff(np.append(starts, len(numbers)))


def rolling_moments(numbers: "Ints", closes: "Floats", window: int) -> "tuple[Floats, Floats]":
    """`RollingMoments` over an array: the same additions in the same order, one lane per refresh."""
    import numpy as np

    mean, std = np.full(len(closes), np.nan), np.full(len(closes), np.nan)
    if len(closes) < window:
        return mean, std

    def sum_anew(rows: "Ints") -> "tuple[Floats, Floats, Floats]":
        anchor, total, squares = closes[rows], np.zeros(len(rows)), np.zeros(len(rows))
        for back in range(window - 1, -1, -1):
            difference = closes[rows - back] - anchor
            total += difference
            squares += difference * difference
        return anchor, total, squares

    rows, lengths = _lanes(numbers, window, window - 1)
    anchor, total, squares = sum_anew(rows)
    for step in range(int(lengths.max())):
        if step:
            active = lengths > step
            rows, lengths, anchor = rows[active] + 1, lengths[active], anchor[active]
            new, old = closes[rows] - anchor, closes[rows - window] - anchor
            difference = new - old
            total = total[active] + difference
            squares = squares[active] + difference * (new + old)
            spread = squares - total * (total / window)
            again = ~(spread > (squares + old * old) * CANCELLED)
            if again.any():
                anchor[again], total[again], squares[again] = sum_anew(rows[again])
        middle = total / window
        mean[rows] = anchor + middle
        std[rows] = np.sqrt(np.maximum(squares - total * middle, 0.0) / (window - 1))
    return mean, std


def _rolling_volatility(numbers: "Ints", closes: "Floats", window: int) -> "Floats":
    """`RealizedVolatility` over an array: the same additions in the same order."""
    import numpy as np

    result = np.full(len(closes), np.nan)
    if len(closes) <= window:
        return result
    # numpy's vector logarithm may differ from the scalar one in the last bit.
    changes = np.array([0.0, *(log(after / before) for before, after in pairwise(closes.tolist()))])
    values = changes * changes

    def sum_anew(rows: "Ints") -> "Floats":
        total = np.zeros(len(rows))
        for back in range(window - 1, -1, -1):
            total += values[rows - back]
        return total

    rows, lengths = _lanes(numbers, window, window)
    total = sum_anew(rows)
    for step in range(int(lengths.max())):
        if step:
            active = lengths > step
            rows, lengths = rows[active] + 1, lengths[active]
            old = values[rows - window]
            total = total[active] + (values[rows] - old)
            again = total < old * CANCELLED
            if again.any():
                total[again] = sum_anew(rows[again])
        result[rows] = np.sqrt(total)
    return result
