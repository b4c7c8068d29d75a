"""Funding rates: what is missing is asked for once, kept, and read back by slot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.interval import FUNDING_MS
from qmtl.engine.clock import SystemClock
from qmtl.runtime.io.funding_history import CcxtRates, fetch_funding, funding_path, read_funding
from qmtl.runtime.io.market_file import load_funding
from qmtl.runtime.sdk.history import InvalidPayloadError

FIRST = 1_700_006_400_000
SYMBOL = "BTC/USDT:USDT"


class Rates:
    """An exchange double whose rate of a slot is its number; pages of `page`, times some ms late."""

    has: Mapping[str, bool] = {"fetchFundingRateHistory": True}

    def __init__(self, page: int = 5, odd: bool = False, each_ms: int = FUNDING_MS) -> None:
        self.asked: list[int] = []
        self.page, self.odd, self.each_ms = page, odd, each_ms

    async def fetch_funding_rate_history(self, symbol: str, since: int, limit: int) -> list[dict[str, Any]]:
        assert (symbol, limit) == (SYMBOL, 1_000)
        self.asked.append(since)
        first = -(-since // self.each_ms)
        rate = None if self.odd else 1e-5
        return [
            {"timestamp": slot * self.each_ms + 7, "fundingRate": rate and rate * (slot % 100)}
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
    assert api.asked[-1] == span[1] + 60_000


async def test_a_contract_that_settles_every_four_hours_pays_both_at_the_slot(tmp_path: Path) -> None:
    each_ms = FUNDING_MS // 2
    api = Rates(page=7, each_ms=each_ms)
    for slots in (3, 6):
        await fetch_funding(session(api), SYMBOL, (FIRST, FIRST + slots * FUNDING_MS), tmp_path)
    found = read_funding(tmp_path, "binanceusdm", SYMBOL)
    assert found is not None
    assert list(found) == [FIRST // FUNDING_MS + number for number in range(1, 7)]
    for slot, one in found.items():
        assert one.rate == pytest.approx(1e-5 * ((2 * slot - 1) % 100 + 2 * slot % 100))


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


def test_a_file_of_four_hourly_rates_pays_both_and_marks_are_those_of_the_slot(tmp_path: Path) -> None:
    slot = FIRST // FUNDING_MS
    hours = [(slot * FUNDING_MS + four * FUNDING_MS // 2, four) for four in range(1, 5)]
    for name, unit in (("rates.csv", 1e-5), ("marks.csv", 100.0)):
        lines = [f"{ts_ms},{four * unit}" for ts_ms, four in hours]
        (tmp_path / name).write_text("\n".join(["open_ms,open", *lines]), "utf-8")
    found = load_funding(tmp_path / "rates.csv", tmp_path / "marks.csv")
    assert found is not None
    assert [at - slot for at in found] == [1, 2]
    assert [one.rate for one in found.values()] == pytest.approx([3e-5, 7e-5])
    assert [one.mark for one in found.values()] == [200.0, 400.0]
