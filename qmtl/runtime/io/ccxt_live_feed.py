"""Live bars and trades of any exchange that ccxt.pro streams, without a hole over breaks and stalls."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from qmtl.core.event import BarClosed
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.bar_fetcher import BarFetcher
from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig, CcxtBars, CcxtTrades, CcxtTradesConfig
from qmtl.runtime.io.ccxt_tail import BarTail, TradeTail, find_cache
from qmtl.runtime.io.fetch_settings import (
    check_exchange,
    check_interval,
    check_number,
    check_symbols,
    check_timeframe,
    check_whole,
    resolve_node,
)
from qmtl.runtime.io.live_series import BarSubscription, TradeSubscription
from qmtl.runtime.io.live_subscription import LiveSubscription
from qmtl.runtime.io.trade_fetcher import TradeFetcher
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import own_options, settle
from qmtl.runtime.sdk.ohlcv_nodeid import TIMEFRAME_SECONDS, NodeId, NodeIdError, build

if TYPE_CHECKING:
    import polars as pl

Mode = Literal["ohlcv", "trades"]
_STALL_S = {"ohlcv": 15.0, "trades": 5.0}
_ABILITIES = {"ohlcv": "watchOHLCV", "trades": "watchTrades"}
_DEDUPE_BY = ("ts", "ts+symbol")
_UNWATCH_S = 5.0


@dataclass(frozen=True, init=False)
class CcxtProConfig:
    """What to stream and how; ValueError names the field that is wrong.

    `exchange` (or `exchange_id`) is ccxt's id; `mode` bars or trades; with `sandbox` the feed stands on a
    proven test venue or raises. Reconnects wait as `backoff.Reconnect` from `reconnect_backoff_s` up to
    `max_backoff_s`, the first ones as `reconnect_backoff_ms` lists. After `stall_timeout_s` of silence (15
    for bars, 5 for trades) REST is asked whether the stream is dead. `buffer_rows` may wait for the reader.
    """

    exchange: str
    symbols: tuple[str, ...] | None
    timeframe: str | None
    mode: Mode
    sandbox: bool
    reconnect_backoff_s: float
    reconnect_backoff_ms: tuple[float, ...]
    max_backoff_s: float
    dedupe: bool
    dedupe_by: str
    emit_building_candle: bool
    verify_closed: bool
    stall_timeout_s: float
    buffer_rows: int

    def __init__(
        self,
        *,
        exchange: str | None = None,
        exchange_id: str | None = None,
        symbols: Sequence[str] | None = None,
        timeframe: str | None = None,
        mode: Mode = "ohlcv",
        sandbox: bool = False,
        reconnect_backoff_s: float = 1.0,
        reconnect_backoff_ms: Sequence[float] | None = None,
        max_backoff_s: float = 30.0,
        dedupe: bool = True,
        dedupe_by: str = "ts",
        emit_building_candle: bool = False,
        verify_closed: bool = True,
        stall_timeout_s: float | None = None,
        buffer_rows: int = 10_000,
    ) -> None:
        if mode not in list(_STALL_S):
            raise ValueError(f"mode: expected ohlcv or trades, got {mode!r}")
        if dedupe_by not in _DEDUPE_BY:
            raise ValueError(f"dedupe_by: expected one of {', '.join(_DEDUPE_BY)}, got {dedupe_by!r}")
        stall_s = _STALL_S[mode] if stall_timeout_s is None else stall_timeout_s
        put = object.__setattr__
        put(self, "exchange", check_exchange(exchange, exchange_id))
        put(self, "symbols", check_symbols(symbols))
        put(self, "timeframe", check_timeframe(timeframe))
        put(self, "mode", mode)
        for name, flag in (
            ("sandbox", sandbox),
            ("dedupe", dedupe),
            ("emit_building_candle", emit_building_candle),
            ("verify_closed", verify_closed),
        ):
            put(self, name, _check_flag(name, flag))
        put(self, "reconnect_backoff_s", check_number("reconnect_backoff_s", reconnect_backoff_s, above=0))
        put(
            self,
            "reconnect_backoff_ms",
            tuple(check_number("reconnect_backoff_ms", delay) for delay in reconnect_backoff_ms or ()),
        )
        put(self, "max_backoff_s", check_number("max_backoff_s", max_backoff_s, above=0))
        put(self, "dedupe_by", dedupe_by)
        put(self, "stall_timeout_s", check_number("stall_timeout_s", stall_s, above=0))
        put(self, "buffer_rows", check_whole("buffer_rows", buffer_rows, 1))

    @property
    def exchange_id(self) -> str:
        """See `exchange`."""
        return self.exchange


class _CcxtStreams(CcxtBars, CcxtTrades):
    """Streams of a ccxt.pro exchange, and its REST side."""


class CcxtProLiveFeed:
    """Yields rows of live series; implements `LiveDataFeed` (qmtl.runtime.sdk.seamless_data_provider).

    RuntimeError at the first call when ccxt is not installed. `exchange` is a ccxt.pro exchange that exists.
    """

    def __init__(
        self,
        config: CcxtProConfig,
        *,
        exchange: Any = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self.config = config
        self._clock: Clock = clock or SystemClock()
        self._rng: Random = rng or SystemRandom()
        self._source = _CcxtStreams(
            type(self).__name__,
            config.exchange,
            self._clock,
            exchange=exchange,
            streams=True,
            sandbox=config.sandbox,
        )
        ports: dict[str, Any] = {"close_after_fetch": False, "clock": self._clock, "rng": self._rng}
        # Whoever refuses the stream often refuses REST too: it is hardly asked again.
        asked: dict[str, Any] = {"exchange": config.exchange, "max_retries": 1}
        bars, trades = CcxtBackfillConfig(**asked), CcxtTradesConfig(**asked)
        self._bars = BarFetcher(bars, self._source, timeframe=None, grid_offset_s=None, **ports)
        self._trades = TradeFetcher(trades, self._source, **ports)
        self._running: dict[tuple[str, int], list[LiveSubscription]] = {}
        self._closing: set[asyncio.Task[Any]] = set()

    @property
    def endpoint(self) -> str | None:
        """The base address it talks to, None for the exchange's own hosts or a double without addresses."""
        return self._source.endpoint

    @property
    def environment(self) -> Any:
        """`production` or `test`; None for a double without addresses."""
        return self._source.environment

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def is_live_available(self, node_id: str, interval: int) -> bool:
        """Tell whether the series is one of this feed and the exchange streams its kind."""
        try:
            self._resolve(node_id, interval)
        except NodeIdError:
            return False
        return self._source.has(_ABILITIES[self.config.mode])

    def subscribe(self, node_id: str, interval: int) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        """Return an iterator of (ts of the last row, rows); bars have a Boolean column `closed`.

        NodeIdError at once for a series that is not this feed's; FetchError while iterating when the exchange
        refuses it.
        """
        named = self._resolve(node_id, interval)
        return self._run(node_id, interval, named)

    async def unsubscribe(self, node_id: str, interval: int) -> None:
        """End every iterator of the series."""
        ended = self._running.get((node_id, interval), [])
        for subscription in ended:
            subscription.end()
        api = self._source.api
        unwatch = {"ohlcv": "un_watch_ohlcv", "trades": "un_watch_trades"}[self.config.mode]
        if not ended or not getattr(api, "clients", None) or not callable(getattr(api, unwatch, None)):
            return
        named = self._resolve(node_id, interval)
        arguments = [named.symbol] + ([named.timeframe] if named.timeframe else [])
        # The server is told where that is possible; the rows that still come are not looked at.
        telling = asyncio.ensure_future(settle(getattr(api, unwatch)(*arguments)))
        try:
            await asyncio.wait({telling}, timeout=_UNWATCH_S)
        finally:
            telling.cancel()
        if telling.done() and not telling.cancelled():
            telling.exception()

    async def events(self) -> "AsyncGenerator[BarClosed]":
        """Yield every bar that closes, of all configured symbols, as events of the engine.

        ValueError unless the mode is ohlcv and symbols and timeframe are configured.
        """
        config = self.config
        if config.mode != "ohlcv" or not config.symbols or config.timeframe is None:
            raise ValueError("events need mode ohlcv, symbols and a timeframe")
        step = TIMEFRAME_SECONDS[config.timeframe]
        queue: asyncio.Queue[BarClosed] = asyncio.Queue()

        async def follow(symbol: str, timeframe: str) -> None:
            node_id = build(config.exchange, symbol, timeframe, escape=True)
            async for _, frame in self.subscribe(node_id, step):
                for ts, *values, is_closed in frame.rows():
                    if is_closed:
                        queue.put_nowait(BarClosed((ts + step) * 1000, symbol, ts * 1000, *values))

        tasks = [asyncio.create_task(follow(symbol, config.timeframe)) for symbol in config.symbols]
        try:
            while True:
                get = asyncio.ensure_future(queue.get())
                try:
                    await asyncio.wait([get, *tasks], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    get.cancel()
                if get.done() and not get.cancelled():
                    yield get.result()
                    continue
                for task in tasks:
                    if task.done():
                        task.result()
                if all(task.done() for task in tasks):
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """End every iterator and close the connections."""
        for subscriptions in self._running.values():
            for subscription in subscriptions:
                subscription.end()
        for fetcher in (self._bars, self._trades):
            await fetcher.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    async def close(self) -> None:
        """See `aclose`."""
        await self.aclose()

    # --- one series -----------------------------------------------------------------------------------

    def _resolve(self, node_id: str, interval: int) -> NodeId:
        config = self.config
        named = resolve_node(node_id, config.mode, config.exchange, config.symbols)
        check_interval(node_id, named, interval, config.timeframe if config.mode == "ohlcv" else None)
        return named

    async def _run(
        self, node_id: str, interval: int, named: NodeId
    ) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        await self._source.open()
        subscription = self._make(node_id, interval, named)
        held = self._running.setdefault((node_id, interval), [])
        held.append(subscription)
        items = subscription.run()
        try:
            async for item in items:
                yield item
        finally:
            held.remove(subscription)
            await items.aclose()

    def _make(self, node_id: str, interval: int, named: NodeId) -> LiveSubscription:
        config, source = self.config, self._source
        # One more than the buffer holds: a cache that ran over then overflows the buffer, and that is seen.
        own_options(source.api)["tradesLimit"] = max(config.buffer_rows, 1000) + 1
        ports = (
            config.exchange,
            source,
            self._drop_sockets,
            Reconnect(
                self._clock,
                self._rng,
                base_delay_s=config.reconnect_backoff_s,
                max_delay_s=config.max_backoff_s,
            ),
        )
        options: dict[str, Any] = {
            "first_delays_ms": config.reconnect_backoff_ms,
            "stall_timeout_s": config.stall_timeout_s,
            "buffer_rows": config.buffer_rows,
            "has_rest": source.is_able("fetch_ohlcv" if config.mode == "ohlcv" else "fetch_trades"),
            "clock": self._clock,
            "node_id": node_id,
        }
        if config.mode == "ohlcv":
            bars = BarTail(lambda: find_cache(source.api, "ohlcvs", named.symbol, named.timeframe))

            async def watch_bars() -> Sequence[Any]:
                return await self._watch(bars, "watch_ohlcv", named.symbol, named.timeframe)

            return BarSubscription(
                *ports,
                watch=watch_bars,
                fetcher=self._bars,
                step=interval,
                emit_forming=config.emit_building_candle,
                verify_closed=config.verify_closed and source.is_able("fetch_ohlcv"),
                **options,
            )

        # Binance's stream of single trades has other ids than its history, which is of aggregates.
        params = {"name": "aggTrade"} if source.is_binance else {}

        trades = TradeTail(lambda: find_cache(source.api, "trades", named.symbol))

        async def watch_trades() -> Sequence[Any]:
            return await self._watch(trades, "watch_trades", named.symbol, None, None, dict(params))

        return TradeSubscription(
            *ports,
            watch=watch_trades,
            fetcher=self._trades,
            collapses_nameless=config.dedupe_by == "ts+symbol",
            dedupes=config.dedupe,
            **options,
        )

    async def _watch(self, tail: BarTail | TradeTail, method: str, *arguments: Any) -> Sequence[Any]:
        if left := tail.pull():
            return left
        api = self._source.api
        # How long to wait between connections is decided here, once: see backoff.Reconnect.
        api.ws_dial_backoff = {}
        rows: Sequence[Any] = await settle(getattr(api, method)(*arguments))
        return tail.pull(rows)

    async def _drop_sockets(self) -> None:
        """Forget the exchange's sockets; the next watch opens others."""
        clients = getattr(self._source.api, "clients", None)
        if not isinstance(clients, dict):
            return
        dropped = list(clients.values())
        clients.clear()
        for client in dropped:
            # A dead peer does not answer the closing handshake: nobody waits for it here.
            task = asyncio.ensure_future(client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value
