"""The close form in backtrader: cheat-on-close, one unit."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import backtrader as bt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.peers.serving import Candles, Outcome, serve


class Columns(bt.feed.DataBase):  # type: ignore[misc]
    """Candles as backtrader reads them."""

    params = (("columns", None),)

    def start(self) -> None:
        super().start()
        days = self.p.columns.open_ms / 86_400_000 + 719_163.0
        self._rows = zip(days.tolist(), *(c.tolist() for c in self.p.columns[1:]), strict=True)

    def _load(self) -> bool:
        row = next(self._rows, None)
        if row is None:
            return False
        lines = self.lines
        lines.datetime[0], lines.open[0], lines.high[0], lines.low[0], lines.close[0] = row
        lines.volume[0], lines.openinterest[0] = 1.0, 0.0
        return True


class CloseForm(bt.Strategy):  # type: ignore[misc]
    """Bands end at the bar before; everything is judged at the close."""

    def __init__(self) -> None:
        self.mean = bt.indicators.SimpleMovingAverage(self.data.close, period=20)
        self.rows: list[tuple[float, ...]] = []
        self.fills: list[tuple[int, float, float]] = []

    def bands(self, ago: int) -> tuple[float, float]:
        # backtrader's own deviation divides by n; the rules want n - 1.
        window = self.data.close.get(ago=ago, size=20)
        mean = self.mean[ago]
        return mean, (sum((price - mean) ** 2 for price in window) / 19) ** 0.5

    def next(self) -> None:
        close = self.data.close
        if len(self) < 22:
            return
        (mean, width), (mean_before, width_before) = self.bands(-1), self.bands(-2)
        now, last, before = close[0], close[-1], close[-2]
        upper, lower = mean + width, mean - width
        if self.position:
            entry, is_long = self.position.price, self.position.size > 0
            if is_long:
                over = mean + 2 * width
                leaves = now <= entry * (1 - 0.0011) or now >= entry * (1 + 0.0016) or last > over >= now
            else:
                under = mean - 2 * width
                leaves = now >= entry * (1 + 0.0011) or now <= entry * (1 - 0.0016) or last < under <= now
            if leaves:
                self.close()
        elif now > upper:
            if not (last > upper or before > mean_before + width_before):
                self.buy(size=1)
        elif now < lower and not (last < lower or before < mean_before - width_before):
            self.sell(size=1)

    def notify_order(self, order: Any) -> None:
        if order.status == order.Completed:
            # Cheat-on-close books an order while the next bar is current.
            self.fills.append((len(self) - 2, order.executed.size, order.executed.price))


def prepare(candles: Candles, options: Mapping[str, Any]) -> Any:
    def work() -> Any:
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.adddata(Columns(columns=candles))
        cerebro.addstrategy(CloseForm)
        cerebro.broker.setcash(1e9)
        cerebro.broker.set_coc(True)
        cerebro.broker.setcommission(commission=0.0004)
        return cerebro.run()[0].fills

    return work


def read(fills: Any) -> Outcome:
    rows = []
    for (begin, size, entry), (end, _, leave) in zip(fills[::2], fills[1::2], strict=False):
        direction = 1 if size > 0 else -1
        rows.append(
            (begin, end, direction, entry, leave, direction * (leave - entry) - 0.0004 * (entry + leave))
        )
    return Outcome(np.array(rows))


if __name__ == "__main__":
    serve(f"backtrader {bt.__version__}", {"close_form": (prepare, read)})
