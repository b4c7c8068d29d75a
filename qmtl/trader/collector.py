"""Stream messages as table rows, one class per stream; frames are built when somebody looks.

Method and column names are those of the published trader. Message fields are the venue's:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams and
…/user-data-streams. pandas comes with the extra `trader`.
"""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from qmtl.core.interval import parse_interval

if TYPE_CHECKING:
    import pandas as pd

Message = Mapping[str, Any]
Row = dict[str, Any]

ROWS = 500
"""Rows a collector keeps unless told otherwise."""

_USER_EVENTS = frozenset({"ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE"})
_log = structlog.get_logger("qmtl.trader.collector")


class Collector(ABC):
    """Base of all collectors: which stream a message is of, a bounded ring of rows, a frame on demand.

    `streamDict` maps stream keys to stream names, as Prelim.getInfo_streams returns them. `unknown`
    counts messages of streams that are not in it.
    """

    eventTypes: frozenset[str] = frozenset()

    def __init__(self, *, rows: int = ROWS, **streamDict: str) -> None:
        self.streamDict = streamDict
        self.unknown: Counter[str] = Counter()
        self._keys = {stream: key for key, stream in streamDict.items()}
        self._rows: deque[Row] = deque(maxlen=rows)
        self._frame: pd.DataFrame | None = None

    def getEventType(self, message: Message) -> tuple[str | None, str | None]:
        """Return (streamKey, eventType) of a raw or wrapped message.

        (None, None) and a counted warning when its stream is not in `streamDict`.
        """
        data = message.get("data", message)
        kind = data.get("e") if isinstance(data, Mapping) else None
        if isinstance(kind, str):
            key = self._keys.get(message.get("stream") or _stream_of(data, kind))
            if key is None and kind in _USER_EVENTS and "stream" not in message:
                key = "userData" if "userData" in self.streamDict else None
            if key is not None:
                return key, kind
        self._warn(f"{message.get('stream', 'raw')}:{kind}")
        return None, None

    def takes(self, message: Message) -> bool:
        """Tell whether this collector keeps messages of this event type."""
        data = message.get("data", message)
        return isinstance(data, Mapping) and data.get("e") in self.eventTypes

    @abstractmethod
    def getRowDictFromMessage(self, message: Message) -> Row:
        """Return the row of a message of this collector's stream."""

    def collect(self, message: Message) -> None:
        """Keep the row of `message`; a message of another stream is left alone."""
        if self.takes(message) and self.getEventType(message)[0] is not None:
            self._keep(message)
            self._frame = None

    def getDataFrame(self, message: Message | None = None) -> "pd.DataFrame":
        """Keep `message`, if one is given, and return all kept rows, oldest first."""
        if message is not None:
            self.collect(message)
        if self._frame is None:
            self._frame = load_pandas().DataFrame(self._table())
        return self._frame

    def _keep(self, message: Message) -> None:
        self._rows.append(self.getRowDictFromMessage(message))

    def _table(self) -> list[Row]:
        return list(self._rows)

    def _head(self, message: Message) -> Row:
        key, kind = self.getEventType(message)
        return {"stream": key, "eventType": kind, "eventTime": int(_data(message)["E"])}

    def _warn(self, name: str) -> None:
        self.unknown[name] += 1
        count = self.unknown[name]
        if count in {1, 10, 100} or count % 1_000 == 0:
            known = ", ".join(self.streamDict) or "none"
            _log.warning(
                "stream_unknown", message=name, count=count, action=f"subscribe what is collected: {known}"
            )


class MarkPriceCollector(Collector):
    """Rows of the mark price stream."""

    eventTypes = frozenset({"markPriceUpdate"})

    def getRowDictFromMessage(self, message: Message) -> Row:
        """Return mark, index and settle price, and the coming funding."""
        data = _data(message)
        return {
            **self._head(message),
            "symbol": str(data["s"]),
            "markPrice": float(data["p"]),
            "indexPrice": _float(data.get("i")),
            "estimatedSettlePrice": _float(data.get("P")),
            "fundingRate": _float(data.get("r")),
            "nextFundingTime": int(data.get("T", 0)),
        }


class RealTimeKlineCollector(Collector):
    """A row for every update of the forming candle; the last one also as attributes."""

    eventTypes = frozenset({"kline"})

    def __init__(self, *, rows: int = ROWS, **streamDict: str) -> None:
        super().__init__(rows=rows, **streamDict)
        self.closeTime = 0
        self.open = self.high = self.low = self.close = self.volume = 0.0

    def getRowDictFromMessage(self, message: Message) -> Row:
        """Return the candle as it stands; times in UTC milliseconds, closeTime is the venue's `T`."""
        kline = _data(message)["k"]
        row = {
            **self._head(message),
            "startTime": int(kline["t"]),
            "closeTime": int(kline["T"]),
            "interval": str(kline["i"]),
            "open": float(kline["o"]),
            "high": float(kline["h"]),
            "low": float(kline["l"]),
            "close": float(kline["c"]),
            "volume": float(kline["v"]),
        }
        self.closeTime = row["closeTime"]
        self.open, self.high, self.low = row["open"], row["high"], row["low"]
        self.close, self.volume = row["close"], row["volume"]
        return row


class KlineCollector(RealTimeKlineCollector):
    """One row per candle: the last is replaced until its candle closes, then the next is appended.

    `lastKlines` is what Prelim.getData_OHLCV returned, or rows like it. A gap [from, to) in candle start
    times is kept in `gaps` and reported to `onGap`; `refill` closes it.
    """

    def __init__(
        self,
        lastKlines: "pd.DataFrame | Iterable[Row] | None" = None,
        *,
        onGap: Callable[[int, int], object] | None = None,
        rows: int = ROWS,
        **streamDict: str,
    ) -> None:
        super().__init__(rows=rows, **streamDict)
        self.gaps: list[tuple[int, int]] = []
        self._on_gap = onGap
        self._candles: dict[int, Row] = {}
        if lastKlines is not None:
            self.refill(lastKlines)

    def refill(self, klines: "pd.DataFrame | Iterable[Row]") -> None:
        """Add closed candles, wherever in time they belong; what is known already is replaced."""
        table: Any = klines.to_dict("records") if hasattr(klines, "to_dict") else klines
        for row in table:
            start = int(row["startTime"])
            self._candles[start] = {**row, "startTime": start}
            self.gaps = [gap for hole in self.gaps for gap in _cut(hole, start, int(row["closeTime"]) + 1)]
        self._candles = dict(sorted(self._candles.items()))
        self._trim()
        self._frame = None

    def _keep(self, message: Message) -> None:
        row = self.getRowDictFromMessage(message)
        start, candles = row["startTime"], self._candles
        last = next(reversed(candles), None)
        if start in candles or last is None or start > last:
            candles[start] = row
        if last is not None and start > last:
            expected = last + parse_interval(row["interval"])
            if start > expected:
                self.gaps.append((expected, start))
                if self._on_gap is not None:
                    self._on_gap(expected, start)
            self._trim()

    def _trim(self) -> None:
        while len(self._candles) > (self._rows.maxlen or ROWS):
            del self._candles[next(iter(self._candles))]

    def _table(self) -> list[Row]:
        return list(self._candles.values())


class OrderUpdateCollector(Collector):
    """Rows of ORDER_TRADE_UPDATE: every change of an order, with its fill if there was one."""

    eventTypes = frozenset({"ORDER_TRADE_UPDATE"})

    def getRowDictFromMessage(self, message: Message) -> Row:
        """Return the order; numbers the venue leaves out are None, reduceOnly and closePosition booleans."""
        order = _data(message)["o"]
        return {
            **self._head(message),
            "symbol": str(order["s"]),
            "side": str(order["S"]),
            "orderType": str(order["o"]),
            "timeInForce": str(order["f"]),
            "originQuantity": float(order["q"]),
            "originPrice": float(order["p"]),
            "averagePrice": float(order["ap"]),
            "stopPrice": _float(order.get("sp")),
            "execType": str(order["x"]),
            "orderStatus": str(order["X"]),
            "orderId": int(order["i"]),
            "lastFilledQuantity": float(order["l"]),
            "cumFilledQuantity": float(order["z"]),
            "lastFilledPrice": float(order["L"]),
            "commission": _float(order.get("n")),
            "commissionAsset": order.get("N"),
            "tradeTime": int(order["T"]),
            "tradeId": int(order["t"]),
            "isMaker": bool(order.get("m", False)),
            "realizedProfit": float(order.get("rp", 0)),
            "clientOrderId": str(order["c"]),
            "positionSide": str(order["ps"]),
            "reduceOnly": bool(order["R"]),
            "closePosition": bool(order.get("cp", False)),
            "originType": str(order.get("ot", order["o"])),
            "workingType": order.get("wt"),
            "activationPrice": _float(order.get("AP")),
            "callbackRate": _float(order.get("cr")),
        }


class AccountUpdateCollector(Collector):
    """ACCOUNT_UPDATE: every asset and every position side it names, and the account as it now stands.

    `assets` maps an asset to its last balance row, `positions` (symbol, side) to its last position row.
    The frame has one row for each of them in each message.
    """

    eventTypes = frozenset({"ACCOUNT_UPDATE"})

    def __init__(self, *, rows: int = ROWS, **streamDict: str) -> None:
        super().__init__(rows=rows, **streamDict)
        self.assets: dict[str, Row] = {}
        self.positions: dict[tuple[str, str], Row] = {}

    def getRowDictFromMessage(self, message: Message) -> Row:
        """Return reason, `balances` and `positions`, the last two lists of rows."""
        update = _data(message)["a"]
        return {
            **self._head(message),
            "reason": str(update.get("m", "")),
            "balances": [
                {
                    "asset": str(balance["a"]),
                    "walletBalance": float(balance["wb"]),
                    "crossWalletBalance": float(balance["cw"]),
                    "balanceChange": float(balance.get("bc", 0)),
                }
                for balance in update.get("B", ())
            ],
            "positions": [
                {
                    "symbol": str(position["s"]),
                    "positionSide": str(position.get("ps", "BOTH")),
                    "positionAmt": float(position["pa"]),
                    "entryPrice": float(position["ep"]),
                    "unrealizedPnL": float(position.get("up", 0)),
                    "marginType": position.get("mt"),
                }
                for position in update.get("P", ())
            ],
        }

    def _keep(self, message: Message) -> None:
        row = self.getRowDictFromMessage(message)
        balances, positions = row.pop("balances"), row.pop("positions")
        for balance in balances:
            self.assets[balance["asset"]] = balance
            self._rows.append({**row, **balance})
        for position in positions:
            self.positions[position["symbol"], position["positionSide"]] = position
            self._rows.append({**row, **position})


def make_collectors(
    streams: Mapping[str, Any], candles: "pd.DataFrame", onGap: Callable[[int, int], object] | None = None
) -> dict[str, Collector]:
    """Return the five collectors by name for `streams` ({key: stream name}), started with `candles`.

    `onGap` hears of missing candles. User messages come on a socket of their own and name no stream.
    """
    marks = {key: stream for key, stream in streams.items() if key.startswith("markPrice")}
    klines = {key: stream for key, stream in streams.items() if key.startswith("kline")}
    return {
        "markPrice": MarkPriceCollector(**marks),
        "realTimeKline": RealTimeKlineCollector(**klines),
        "kline": KlineCollector(candles, onGap=onGap, **klines),
        "orderUpdate": OrderUpdateCollector(userData="userData"),
        "accountUpdate": AccountUpdateCollector(userData="userData"),
    }


def load_pandas() -> Any:
    """Return pandas, or raise ModuleNotFoundError with one line naming the extra that brings it."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        message = "pandas is not installed: frames need the extra trader, e.g. pip install 'qmtl[trader]'"
        raise ModuleNotFoundError(message, name="pandas") from None
    return pd


def _data(message: Message) -> Any:
    return message.get("data", message)


def _float(value: Any) -> float | None:
    return None if value in {None, ""} else float(value)


def _stream_of(data: Message, kind: str) -> str:
    """The name of the stream a raw message came by."""
    symbol = str(data.get("s", "")).lower()
    if kind == "kline":
        return f"{symbol}@kline_{data['k']['i']}"
    return f"{symbol}@aggTrade" if kind == "aggTrade" else f"{symbol}@markPrice@1s"


def _cut(hole: tuple[int, int], start: int, end: int) -> list[tuple[int, int]]:
    """What is left of `hole` once [start, end) is filled."""
    left, right = (hole[0], min(hole[1], start)), (max(hole[0], end), hole[1])
    return [part for part in (left, right) if part[0] < part[1]]
