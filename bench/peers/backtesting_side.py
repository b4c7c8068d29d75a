"""The close form in backtesting.py: trade_on_close, one unit."""

import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backtesting import Backtest, Strategy

from bench.peers.serving import Candles, Outcome, serve


def bands(close: Any) -> tuple[Any, Any]:
    rolled = pd.Series(close).rolling(20)
    return rolled.mean().to_numpy(), rolled.std(ddof=1).to_numpy()


class CloseForm(Strategy):  # type: ignore[misc]
    """Bands end at the bar before; everything is judged at the close."""

    def init(self) -> None:
        self.mean, self.width = self.I(bands, self.data.Close, plot=False)

    def next(self) -> None:
        close = self.data.Close
        if len(close) < 21:
            return
        mean, width, now, last, before = self.mean, self.width, close[-1], close[-2], close[-3]
        upper, lower = mean[-2] + width[-2], mean[-2] - width[-2]
        if self.position:
            trade = self.trades[0]
            entry, is_long = trade.entry_price, trade.is_long
            if is_long:
                over = mean[-2] + 2 * width[-2]
                leaves = now <= entry * (1 - 0.0011) or now >= entry * (1 + 0.0016) or last > over >= now
            else:
                under = mean[-2] - 2 * width[-2]
                leaves = now >= entry * (1 + 0.0011) or now <= entry * (1 - 0.0016) or last < under <= now
            if leaves:
                self.position.close()
        elif now > upper:
            if not (last > upper or before > mean[-3] + width[-3]):
                self.buy(size=1)
        elif now < lower and not (last < lower or before < mean[-3] - width[-3]):
            self.sell(size=1)


def prepare(candles: Candles, options: Mapping[str, Any]) -> Any:
    index = pd.to_datetime(candles.open_ms, unit="ms")
    columns = {"Open": candles.open, "High": candles.high, "Low": candles.low, "Close": candles.close}
    frame = pd.DataFrame(columns, index=index)
    frame["Volume"] = 1.0

    def work() -> Any:
        return Backtest(frame, CloseForm, cash=1e9, commission=0.0004, trade_on_close=True).run()

    return work


def read(found: Any) -> Outcome:
    trades = found["_trades"]
    trades = trades[trades["ExitBar"] < found["_equity_curve"].shape[0]]
    rows = np.column_stack(
        (
            trades["EntryBar"],
            trades["ExitBar"],
            trades["Size"],
            trades["EntryPrice"],
            trades["ExitPrice"],
            trades["PnL"],
        )
    )
    return Outcome(rows)


if __name__ == "__main__":
    serve(f"backtesting.py {version('backtesting')}", {"close_form": (prepare, read)})
