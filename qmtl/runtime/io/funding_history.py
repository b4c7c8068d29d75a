"""Funding rates as an exchange settled them, kept in one small file for each symbol beside the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from qmtl.core.interval import FUNDING_MS
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.runtime.io.binance_history import EXCHANGE, BinanceBars, venue_symbol
from qmtl.runtime.io.binance_payloads import PayloadError
from qmtl.runtime.io.binance_rest import BinanceRest
from qmtl.runtime.io.ccxt_session import CcxtSession, NotOffered
from qmtl.runtime.io.history_file import read_rates, write_rows
from qmtl.runtime.io.request_lane import FaultJudge
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.history import InvalidPayloadError
from qmtl.runtime.sdk.market_history import Funding, slots_between, sum_by_slot

PAGE = 1_000
"""Rates asked for at once: 333 days."""
_MOST_PAGES = 100
_MINUTE_MS = 60_000


class _Rate(msgspec.Struct):
    fundingTime: int
    fundingRate: float


_DECODER = msgspec.json.Decoder(list[_Rate], strict=False)


def funding_path(folder: Path, exchange: str, symbol: str) -> Path:
    """Return where the rates of a unified symbol lie below the store's folder."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in symbol)
    return folder / "funding" / f"{exchange}_{plain}.parquet"


def read_funding(folder: Path, exchange: str, symbol: str) -> dict[int, Funding] | None:
    """Return the rates that are kept, by 8h slot; None where nobody brought any."""
    path = funding_path(folder, exchange, symbol)
    if not path.is_file():
        return None
    rows = read_rates(path)
    pairs = zip(rows["open_ms"].to_list(), rows["open"].to_list(), strict=True)
    return {slot: Funding(slot * FUNDING_MS, rate) for slot, rate in sum_by_slot(pairs).items()}


class RateSource(FaultJudge, Protocol):
    """One exchange's history of funding rates."""

    exchange_id: str

    async def open(self) -> None:
        """Make it usable in this loop; contacts nobody."""

    async def close(self) -> None:
        """Close connections."""

    async def fetch_rates(self, symbol: str, since_ms: int, limit: int) -> list[tuple[int, float]]:
        """Return up to `limit` (time, rate) from `since_ms` on, oldest first; NotOffered without any."""


class BinanceRates(BinanceBars):
    """Settled rates of USDT-M contracts; needs no key and no extra."""

    exchange_id = EXCHANGE

    async def fetch_rates(self, symbol: str, since_ms: int, limit: int) -> list[tuple[int, float]]:
        """See RateSource."""
        params = {"symbol": venue_symbol(symbol), "startTime": str(since_ms), "limit": str(limit)}
        body = await self._rest.call("GET", "/fapi/v1/fundingRate", params, security="none")
        try:
            rows = _DECODER.decode(body)
        except msgspec.MsgspecError as error:
            raise PayloadError(f"fundingRate: {error}") from error
        return [(row.fundingTime, row.fundingRate) for row in rows]


class CcxtRates(CcxtSession):
    """Settled rates of a ccxt exchange."""

    async def fetch_rates(self, symbol: str, since_ms: int, limit: int) -> list[tuple[int, float]]:
        """See RateSource."""
        if not self.has("fetchFundingRateHistory") or not self.is_able("fetch_funding_rate_history"):
            raise NotOffered(f"{self.exchange_id} offers no history of funding rates")
        rows: Sequence[Mapping[str, Any]] = await self.call(
            "fetch_funding_rate_history", symbol, since_ms, limit
        )
        return [_parse(row, self.exchange_id) for row in rows]


def open_rates(exchange: str) -> RateSource:
    """Return the rates of an exchange; Binance's own by our client, others by ccxt. Nobody is contacted."""
    clock = SystemClock()
    if exchange == EXCHANGE:
        url = runtime.settings().account.base_url
        return BinanceRates(BinanceRest("", "", url, clock=clock, random=SystemRandom()))
    return CcxtRates("CcxtRates", exchange, clock)


async def fetch_funding(source: RateSource, symbol: str, span_ms: tuple[int, int], folder: Path) -> int:
    """Bring what is missing of the rates settled in (start, end] and keep it; return how many came.

    An exchange without such a history brings none. FetchError says what it did not give.
    """
    import polars as pl

    known = read_funding(folder, source.exchange_id, symbol) or {}
    wanted = [at for at in slots_between(*span_ms) if at // FUNDING_MS not in known]
    if not wanted:
        return 0
    await source.open()
    try:
        found = await _ask(source, symbol, wanted[0], wanted[-1])
    except NotOffered:
        return 0
    finally:
        await source.close()
    new = {at: rate for at, rate in found.items() if not sum_by_slot([(at, rate)]).keys() & known.keys()}
    if new:
        kept = {one.ts_ms: one.rate for one in known.values()} | new
        rows = sorted(kept.items())
        frame = pl.DataFrame({"open_ms": [at for at, _ in rows], "open": [rate for _, rate in rows]})
        path = funding_path(folder, source.exchange_id, symbol)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(frame, path)
    return len(new)


async def _ask(source: RateSource, symbol: str, first_ms: int, last_ms: int) -> dict[int, float]:
    """Page through what falls due after the slot before `first_ms`, up to `last_ms`."""
    found: dict[int, float] = {}
    since = first_ms - FUNDING_MS + _MINUTE_MS
    for _ in range(_MOST_PAGES):
        try:
            rows = await source.fetch_rates(symbol, since, PAGE)
        except NotOffered:
            raise
        except source.errors as error:
            fault = source.judge(error)
            raise fault.kind(f"{source.exchange_id} {symbol} funding rates: {fault.reason}") from error
        # The times of some exchanges are a few milliseconds late.
        minutes = [(at // _MINUTE_MS * _MINUTE_MS, rate) for at, rate in rows]
        page = {at: rate for at, rate in minutes if at <= last_ms}
        found |= page
        newest = max(page, default=since)
        if newest >= last_ms or newest <= since or len(rows) < 2:
            break
        since = newest + 1
    return found


def _parse(row: Mapping[str, Any], exchange: str) -> tuple[int, float]:
    at, rate = row.get("timestamp"), row.get("fundingRate")
    if not isinstance(at, int) or not isinstance(rate, int | float):
        raise InvalidPayloadError(f"{exchange} funding rates: odd row {dict(row)!r:.120}")
    return at, float(rate)
