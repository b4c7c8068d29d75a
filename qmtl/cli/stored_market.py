"""The market of a run from the store: what is there, and for a range what is missing fetched."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qmtl.cli.backtest_text import moment
from qmtl.cli.fetch_progress import WatchedStore, progress
from qmtl.cli.funding import bring_funding
from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation, now_ms, one_line
from qmtl.cli.series import NamedSeries, default_exchange, find_home, make_fetcher, name_series
from qmtl.cli.time_range import parse_range

if TYPE_CHECKING:
    from qmtl.core.ranges import Range
    from qmtl.runtime.sdk.history import Endpoint
    from qmtl.runtime.sdk.market_history import Funding, MarketHistory
    from qmtl.runtime.sdk.trade_plan import TradePlan
    from qmtl.settings import Settings

_LATER = ("failed", "pending", "budget")


def load_stored(
    invocation: Invocation,
    settings: "Settings",
    plan: "TradePlan",
    span: tuple[str | None, str | None, str | None],
    funding: "dict[int, Funding] | None",
) -> "dict[str, MarketHistory]":
    """Return the candles of every symbol of the plan in --since, --start, --end of `span`.

    Without any of them it is what the store holds. Without `funding` the rates kept beside the store are
    taken. BadInputError where there is nothing.
    """
    from qmtl.runtime.sdk import runtime

    exchange = default_exchange(settings, None)
    with runtime.using(settings):
        series = {symbol: name_series(symbol, plan.interval, exchange) for symbol in plan.markets}
        return {
            symbol: asyncio.run(_load(invocation, one, _closed_range(one, span), symbol, funding))
            for symbol, one in series.items()
        }


def _closed_range(series: NamedSeries, span: tuple[str | None, str | None, str | None]) -> "Range | None":
    from qmtl.runtime.sdk.fetch_plan import plan_window

    now_s = now_ms() // 1000
    newest = plan_window(series.key, 0, 0, now_s=now_s, stabilization_bars=0).newest_closed
    wanted = parse_range(*span, newest)
    if wanted is None:
        return None
    window = plan_window(series.key, *wanted, now_s=now_s, stabilization_bars=0)
    return window.first, window.closed_until


async def _load(
    invocation: Invocation,
    series: NamedSeries,
    span: "Range | None",
    symbol: str,
    funding: "dict[int, Funding] | None",
) -> "MarketHistory":
    from qmtl.runtime.io.funding_history import read_funding
    from qmtl.runtime.io.seamless_provider import find_place, open_store
    from qmtl.runtime.sdk import runtime
    from qmtl.runtime.sdk.coverage_report import bounds_of, report_coverage
    from qmtl.runtime.sdk.market_history import Hole, check_bars, from_frame, make_history

    home = find_home(series.exchange)
    if funding is None:
        folder = find_place(runtime.settings().seamless.store_dir, home)
        funding = read_funding(folder, series.exchange, series.symbol)
    # The provider closes the store it was given: what it brought is read from another.
    missing = () if span is None else await _fetch(invocation, series, open_store(endpoint=home), span)
    store = open_store(endpoint=home)
    try:
        spans = await store.coverage(series.key)
        bounds = span or bounds_of(spans)
        frame = None if bounds is None else await store.read(series.key, *bounds)
    finally:
        await store.aclose()
    if bounds is None or frame is None or not frame.height:
        raise _nothing(series, missing, span)
    report = report_coverage(series.key, spans, *bounds, missing)
    reasons = [Hole(hole.start * 1000, hole.end * 1000, str(hole.reason)) for hole in report.holes]
    return make_history(
        check_bars(from_frame(frame, symbol=symbol, interval=series.timeframe), str(series)),
        source=_name_source(series.exchange, home),
        node_id=series.key.node_id,
        start_ms=bounds[0] * 1000,
        end_ms=bounds[1] * 1000,
        reason="not in the store",
        reasons=reasons,
        funding=funding,
    )


def _name_source(exchange: str, home: "Endpoint | None") -> str:
    # Rows of a paper exchange must not pass for the market's.
    if home is None or home.environment == "production":
        return exchange
    return f"{exchange} at {home.host_port.replace('_', ':')} (a test venue)"


async def _fetch(invocation: Invocation, series: NamedSeries, store: Any, span: "Range") -> Sequence[Any]:
    """Bring what is missing of a range; return what stays missing, with reasons."""
    from qmtl.core.ranges import measure_ranges, subtract_ranges
    from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
    from qmtl.runtime.sdk.fetch_plan import covered_ranges
    from qmtl.runtime.sdk.history import FetchError, SeamlessUnavailableError
    from qmtl.runtime.sdk.seamless_data_provider import CacheConfig

    key = series.key
    wanted = subtract_ranges([span], covered_ranges(await store.coverage(key), span[1]))
    cells = measure_ranges(wanted) // key.interval
    if not cells:
        await store.aclose()
        return ()
    with progress(invocation, f"fetch {series}", cells) as advance:
        watched = WatchedStore(store, lambda seconds: advance(seconds // key.interval))
        provider = EnhancedQuestDBProvider(
            store=watched,
            fetcher=make_fetcher(series.exchange, "ohlcv"),
            strategy="AUTO_BACKFILL",
            cache=CacheConfig(enable=False),
        )
        async with provider:
            try:
                await provider.ensure_range(*span, node_id=key.node_id, interval=key.interval)
            except SeamlessUnavailableError as error:
                invocation.note(f"{series}: {one_line(error.__cause__ or error)}")
                return error.missing
            except FetchError as error:
                raise BadInputError(f"{series}: {one_line(error)}") from error
    await bring_funding(invocation, series, span)
    return ()


def _nothing(series: NamedSeries, missing: Sequence[Any], span: "Range | None") -> Exception:
    """What to raise where there are no candles: a venue out of reach may answer later, the rest not."""
    if missing:
        text = f"{series}: no candles in that range ({missing[0][2]})"
        return CommandFailedError(text) if missing[0][2] in _LATER else BadInputError(text)
    if span is not None:
        first, end = (moment(second * 1000) for second in span)
        return BadInputError(f"{series}: the exchange has no candles from {first} to {end}")
    fetch = f"qmtl data fetch {series.symbol} {series.timeframe} --since 90d"
    return BadInputError(f"{series}: nothing is stored; {fetch}, or --data FILE")
