"""Bars per second of a three-node Bollinger strategy through the Runner, beside a bare loop.

Both keep the last 20 rows, compute mean and deviation of their closes at every bar, and make an order payload
where the close leaves the band and the last signal was another, by the same functions. The Runner's side also
runs the engine with its simulated venue, journals every bar with its reason, and fills the orders.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from bench.measure import compare, machine, write
from bench.recorded import load_bars
from qmtl.core.bar import Bar
from qmtl.core.event import IntentRecorded
from qmtl.runtime.sdk.node_run import SubmitResult
from qmtl.runtime.sdk.nodes.base import Row, View
from qmtl.runtime.sdk.nodes.processing import ProcessingNode
from qmtl.runtime.sdk.nodes.publishing import TradeOrderPublisherNode
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.runner import Runner
from qmtl.runtime.sdk.strategy import Strategy

BARS = 20_000
WINDOW = 20
MINUTE = 60
SIZE = 0.01


def decide(rows: Sequence[Row], last: str) -> dict[str, Any] | None:
    """Return a signal where the last close leaves the band of all closes and `last` was another action."""
    closes = [row["close"] for _, row in rows]
    close = closes[-1]
    mean = sum(closes) / WINDOW
    band = 2.0 * sqrt(sum((one - mean) ** 2 for one in closes) / WINDOW)
    action = "BUY" if close > mean + band else "SELL" if close < mean - band else None
    if action is None or action == last:
        return None
    return {"action": action, "size": SIZE, "symbol": "BTC/USDT"}


def publish(ts: int, signal: Mapping[str, Any]) -> dict[str, Any]:
    """Return the order payload of a signal."""
    return {
        "side": signal["action"],
        "quantity": signal["size"],
        "timestamp": ts,
        "symbol": signal["symbol"],
    }


class Rows:
    """Recorded candles as a history provider."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> list[dict[str, Any]]:
        """Return them all."""
        return self.rows


class Bollinger(Strategy):
    """Input, bands, orders."""

    provider: Rows

    def setup(self) -> None:
        """Make the three nodes."""
        price = StreamInput(
            interval="1m",
            period=WINDOW,
            history_provider=self.provider,
            data_key="ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m",
        )
        said = ""

        def bands(view: View) -> dict[str, Any] | None:
            nonlocal said
            signal = decide(view[price][MINUTE], said)
            if signal is not None:
                said = signal["action"]
            return signal

        signal = ProcessingNode(price, bands, name="bands", interval="1m", period=WINDOW)
        self.add_nodes([price, signal, TradeOrderPublisherNode(signal)])


def run_nodes(rows: list[dict[str, Any]]) -> SubmitResult:
    """Run the strategy over `rows`; return its result with the journal."""
    Bollinger.provider = Rows(rows)
    result = Runner.submit(Bollinger, domain="backtest", start=rows[0]["ts"], end=rows[-1]["ts"] + MINUTE)
    Runner.shutdown()
    return result


def run_bare(rows: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Do the same three computations in one loop; return the order payloads."""
    orders: list[Mapping[str, Any]] = []
    window: list[Row] = []
    said = ""
    for row in rows:
        window.append((row["ts"], row))
        if len(window) < WINDOW:
            continue
        if len(window) > WINDOW:
            del window[0]
        signal = decide(window, said)
        if signal is not None:
            said = signal["action"]
            orders.append(publish(row["ts"], signal))
    return orders


def to_rows(bars: list[Bar]) -> list[dict[str, Any]]:
    """Return candles as a provider's rows, times in seconds."""
    return [
        {
            "ts": bar.open_ms // 1000,
            "open": bar.open,
            "high": bar.high,
            "low": bar.low,
            "close": bar.close,
            "volume": bar.volume,
        }
        for bar in bars
    ]


def check_equal(rows: list[dict[str, Any]]) -> int:
    """Raise AssertionError unless both gave the same orders; return how many."""
    journal = run_nodes(rows).journal
    if journal is None:
        raise AssertionError("a backtest has a journal")
    ours = [event.intent for _, event in journal.read() if isinstance(event, IntentRecorded)]
    theirs = run_bare(rows)
    if [(i.side.value, i.bar_ms // 1000) for i in ours] != [(o["side"], o["timestamp"]) for o in theirs]:
        raise AssertionError(f"{len(ours)} orders here, {len(theirs)} there")
    return len(ours)


def main() -> None:
    """Check the orders, then measure."""
    bars, source = load_bars(BARS)
    rows = to_rows(bars)
    count = check_equal(rows)
    print(machine(), source)
    print(f"{count} orders, equal in both")
    figure = compare(
        "3-node Bollinger strategy through the Runner",
        lambda: run_nodes(rows),
        lambda: run_bare(rows),
        count=len(rows),
        anchor_name="bare Python loop",
        unit="bars",
    )
    write(
        "node_throughput", [figure], {"source": source, "orders": count, "wanted_ratio": 1 / 6, "aim": 1 / 4}
    )


if __name__ == "__main__":
    main()
