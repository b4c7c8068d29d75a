"""The funding rates of a perpetual come with its candles: without them a backtest counts 0."""

from qmtl.cli.invocation import Invocation, one_line
from qmtl.cli.series import TRADES, NamedSeries, find_home


async def bring_funding(invocation: Invocation, series: NamedSeries, span: tuple[int, int]) -> None:
    """Keep the rates settled in a range (epoch seconds) beside its candles; what fails is a note."""
    from qmtl.runtime.io.funding_history import fetch_funding, open_rates
    from qmtl.runtime.io.seamless_provider import find_place
    from qmtl.runtime.sdk import runtime
    from qmtl.runtime.sdk.history import FetchError

    if ":" not in series.symbol or series.timeframe == TRADES:
        return
    folder = find_place(runtime.settings().seamless.store_dir, find_home(series.exchange))
    span_ms = (span[0] * 1000, span[1] * 1000)
    try:
        await fetch_funding(open_rates(series.exchange), series.symbol, span_ms, folder)
    except FetchError as error:
        invocation.note(one_line(error))
