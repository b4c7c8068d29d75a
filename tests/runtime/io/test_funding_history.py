"""Funding rates: what is missing is asked for once, kept, and read back by slot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.interval import FUNDING_MS
from qmtl.engine.clock import SystemClock
from qmtl.runtime.io.funding_history import CcxtRates, fetch_funding, funding_path, read_funding
from qmtl.runtime.sdk.history import InvalidPayloadError

FIRST = 1_700_006_400_000
SYMBOL = "BTC/USDT:USDT"


class Rates:
    """An exchange double whose rate of a slot is its number; pages of `page`, times some ms late."""

    has: Mapping[str, bool] = {"fetchFundingRateHistory": True}

    def __init__(self, page: int = 5, odd: bool = False) -> None:
        self.asked: list[int] = []
        self.page, self.odd = page, odd

    async def fetch_funding_rate_history(self, symbol: str, since: int, limit: int) -> list[dict[str, Any]]:
        assert (symbol, limit) == (SYMBOL, 1_000)
        self.asked.append(since)
        first = -(-since // FUNDING_MS)
        rate = None if self.odd else 1e-5
        return [
            {"timestamp": slot * FUNDING_MS + 7, "fundingRate": rate and rate * (slot % 100)}
            for slot in range(first, first + self.page)
        ]

    async def close(self) -> None: ...


def session(api: Any) -> CcxtRates:
    return CcxtRates("test", "binanceusdm", SystemClock(), exchange=api)


async def test_what_is_missing_is_paged_kept_and_not_asked_again(tmp_path: Path) -> None:
    api = Rates()
    span = (FIRST, FIRST + 12 * FUNDING_MS)
    assert await fetch_funding(session(api), SYMBOL, span, tmp_path) == 12
    assert len(api.asked) == 3
    found = read_funding(tmp_path, "binanceusdm", SYMBOL)
    assert found is not None
    slots = range(FIRST // FUNDING_MS + 1, FIRST // FUNDING_MS + 13)
    assert list(found) == list(slots)
    assert all(found[slot].rate == pytest.approx(1e-5 * (slot % 100)) for slot in slots)
    assert all(found[slot].ts_ms == slot * FUNDING_MS for slot in slots)
    assert await fetch_funding(session(api), SYMBOL, span, tmp_path) == 0
    assert len(api.asked) == 3
    assert await fetch_funding(session(api), SYMBOL, (FIRST, span[1] + FUNDING_MS), tmp_path) == 1
    assert api.asked[-1] == span[1] + FUNDING_MS


async def test_who_has_no_history_brings_none(tmp_path: Path) -> None:
    api = Rates()
    api.has = {"fetchFundingRateHistory": False}
    assert await fetch_funding(session(api), SYMBOL, (FIRST, FIRST + FUNDING_MS), tmp_path) == 0
    assert read_funding(tmp_path, "binanceusdm", SYMBOL) is None
    assert not funding_path(tmp_path, "binanceusdm", SYMBOL).exists()


async def test_an_odd_row_is_refused_and_nothing_kept(tmp_path: Path) -> None:
    with pytest.raises(InvalidPayloadError, match="binanceusdm funding rates: odd row"):
        await fetch_funding(session(Rates(odd=True)), SYMBOL, (FIRST, FIRST + FUNDING_MS), tmp_path)
    assert read_funding(tmp_path, "binanceusdm", SYMBOL) is None
