"""Seamless §4: the error table, row by row, through real ccxt; and what a configuration refuses."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig, CcxtOHLCVFetcher, CcxtTradesConfig
from qmtl.runtime.io.rate_limiter import RateLimiterConfig
from qmtl.runtime.sdk.history import (
    FatalFetchError,
    InvalidPayloadError,
    RateLimitedError,
    RetryableFetchError,
)
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import KLINES, NODE, T0, History, configure, history
from tests.runtime.leap_clock import MidRandom

__all__ = ["configure", "history"]
LATER_S = T0 + 90 * 86_400


def make(place: History, **fields: Any) -> CcxtOHLCVFetcher:
    given = {"exchange": "binance", "timeframe": "1m", **fields}
    return CcxtOHLCVFetcher(CcxtBackfillConfig(**given), clock=place.clock, rng=MidRandom())


async def ask(fetcher: CcxtOHLCVFetcher, minutes: int = 10, node_id: str = NODE) -> Any:
    return await fetcher.fetch_report(T0, T0 + 60 * minutes, node_id=node_id, interval=60)


async def test_09_a_bad_symbol_is_asked_once(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    with pytest.raises(FatalFetchError, match="BadSymbol") as caught:
        await ask(make(place, batch_limit=10), 100, "ohlcv:binance:NOPE/USDT:1m")
    assert type(caught.value) is FatalFetchError
    error = caught.value
    assert (error.exchange, error.symbol, error.attempts) == ("binance", "NOPE/USDT", 1)
    assert error.window == (T0, T0 + 600)
    assert place.klines.seen == 0


async def test_09_a_symbol_the_exchange_refuses_is_asked_once(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    place.fault(FaultKind.STATUS, status=400)
    with pytest.raises(FatalFetchError):
        await ask(make(place, batch_limit=10), 100)
    assert place.klines.seen == 1


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FaultKind.REFUSE, {}),
        (FaultKind.DROP, {}),
        (FaultKind.STATUS, {"status": 500}),
        (FaultKind.STATUS, {"status": 502}),
        (FaultKind.STATUS, {"status": 503}),
        (FaultKind.STATUS, {"status": 504}),
    ],
)
async def test_09_what_may_pass_is_resent_max_retries_times(
    history: Callable[..., Any], kind: FaultKind, fields: dict[str, Any]
) -> None:
    place = await history(range(100), LATER_S)
    rule = place.fault(kind, **fields)
    with pytest.raises(RetryableFetchError) as caught:
        await ask(make(place, max_retries=2, retry_backoff_s=4.0))
    assert not isinstance(caught.value, RateLimitedError)
    assert caught.value.attempts == 3
    assert place.klines.seen == 3
    # Full jitter: the middle of [0, 4] and of [0, 8].
    assert [round(s) for s in place.clock.slept if s >= 1] == [2, 4]
    rule.times = 0
    rule.hits = 0
    assert (await ask(make(place, max_retries=2))).frame.height == 10


async def test_09_timeouts_are_resent(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    fetcher: Any = make(place, max_retries=3)
    assert (await ask(fetcher)).requests == 1
    # From now on the client has no patience at all.
    fetcher._source.api.timeout = 0.001
    with pytest.raises(RetryableFetchError, match="RequestTimeout") as caught:
        await ask(fetcher)
    assert caught.value.attempts == 4


async def test_09_retry_after_holds_every_sharer(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    place.fault(FaultKind.STATUS, status=429, seconds=7, schedule=[2])
    times: list[float] = []
    first, second = make(place), make(place)
    for fetcher in (first, second):
        note_calls(fetcher, times, place)
    await ask(first)
    refused = len(times)
    with pytest.raises(RateLimitedError) as caught:
        await ask(make_patient(place, times, max_retries=0))
    assert caught.value.retry_after_s == 7
    await ask(second)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # Call number 2 was refused; nobody called for seven seconds.
    assert refused == 1
    assert gaps[1] >= 7_000


def note_calls(fetcher: Any, times: list[float], place: History) -> None:
    fetch = fetcher._bars.fetch_bars

    async def noted(*args: Any) -> Any:
        times.append(place.clock.real_ms())
        return await fetch(*args)

    fetcher._bars.fetch_bars = noted


def make_patient(place: History, times: list[float], **fields: Any) -> Any:
    fetcher: Any = make(place, **fields)
    note_calls(fetcher, times, place)
    return fetcher


@pytest.mark.parametrize(
    ("fault", "penalty_ms", "expected_s"),
    [
        ({"status": 429, "seconds": 7}, None, 7),
        ({"status": 429, "seconds": 7}, 9_000, 9),
        ({"status": 418, "seconds": 30}, None, 30),
        ({"status": 418, "seconds": -1}, None, 120),
        ({"status": 429, "seconds": -1}, 4_000, 4),
        ({"status": 429, "seconds": -1}, None, 0.25),
    ],
)
async def test_how_long_a_rate_limited_fetch_waits(
    history: Callable[..., Any], fault: dict[str, Any], penalty_ms: float | None, expected_s: float
) -> None:
    place = await history(range(100), LATER_S)
    place.fault(FaultKind.STATUS, schedule=[1], **fault)
    limiter = RateLimiterConfig(penalty_backoff_ms=penalty_ms, key_suffix=f"{expected_s}")
    fetcher: Any = make(place, rate_limiter=limiter)
    times: list[float] = []
    note_calls(fetcher, times, place)
    with capture_logs() as logs:
        report = await ask(fetcher)
    assert report.frame.height == 10
    assert report.requests == 2
    waited_s = (times[1] - times[0]) / 1000
    assert expected_s <= waited_s <= expected_s * 1.1 + 0.1
    told = [entry for entry in logs if entry["event"] == "seamless.backfill.rate_limited"]
    assert bool(told) == (waited_s >= 1)
    for entry in told:
        # Seamless §14: the text, verbatim.
        wait_ms = entry["message"].split()[1]
        assert abs(int(wait_ms) - waited_s * 1000) < 100
        assert entry["message"] == (
            f"waited {wait_ms} ms for binance; "
            "lower batch_limit, raise min_interval_ms or share a Redis bucket"
        )
        assert entry["log_level"] == "warning"


async def test_refused_keys_and_lacking_abilities_are_fatal(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    place.fault(FaultKind.STATUS, status=401)
    with pytest.raises(FatalFetchError):
        await ask(make(place))
    assert place.klines.seen == 1
    with pytest.raises(FatalFetchError, match="offers no bars of 10s") as caught:
        await make(place, timeframe="10s").fetch(
            T0, T0 + 60, node_id="ohlcv:binance:BTC/USDT:10s", interval=10
        )
    assert caught.value.symbol == "BTC/USDT"
    assert place.klines.seen == 1


@pytest.mark.parametrize(
    "row",
    [
        [T0 * 1000, 1.0, 2.0, 0.5, 1.5],
        [T0 * 1000, 1.0, None, 0.5, 1.5, 3.0],
        [T0 * 1000, 1.0, "x", 0.5, 1.5, 3.0],
        [T0 * 1000 + 1, 1.0, 2.0, 0.5, 1.5, 3.0],
        [-60_000, 1.0, 2.0, 0.5, 1.5, 3.0],
        [None, 1.0, 2.0, 0.5, 1.5, 3.0],
    ],
)
async def test_a_malformed_row_is_an_invalid_payload_and_named(
    history: Callable[..., Any], row: list[Any]
) -> None:
    place = await history(range(10), LATER_S)
    fetcher: Any = make(place)

    async def answer(*_: Any) -> list[list[Any]]:
        return [[(T0 - 60) * 1000, 1.0, 2.0, 0.5, 1.5, 3.0], row]

    fetcher._bars.fetch_bars = answer
    with pytest.raises(InvalidPayloadError, match="row 1") as caught:
        await ask(fetcher)
    assert (caught.value.attempts, isinstance(caught.value, FatalFetchError)) == (1, True)


async def test_what_is_no_fault_of_the_exchange_propagates(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    fetcher: Any = make(place)

    async def answer(*_: Any) -> list[list[Any]]:
        raise ZeroDivisionError

    fetcher._bars.fetch_bars = answer
    with pytest.raises(ZeroDivisionError):
        await ask(fetcher)


async def test_outcomes_and_resends_are_counted(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    place.fault(FaultKind.STATUS, status=503, schedule=[1])
    place.fault(FaultKind.STATUS, status=429, seconds=-1, schedule=[1])

    def counts() -> list[float]:
        requests = SEAMLESS.exchange_requests
        names = ("ok", "failed", "rate_limited")
        found = [requests.labels("binance", name)._value.get() for name in names]
        return [*found, SEAMLESS.backfill_retry.labels(NODE, "60")._value.get()]

    before = counts()
    await ask(make(place))
    assert [after - was for was, after in zip(before, counts(), strict=True)] == [1, 1, 1, 2]
    assert place.klines.seen == 3
    assert KLINES in {rule.route for rule in place.server.exchange.faults.rules}


@pytest.mark.parametrize("make_config", [CcxtBackfillConfig, CcxtTradesConfig])
def test_03_alias_pairs_agree_or_raise(make_config: type[Any]) -> None:
    given: dict[str, Any]
    for given in ({"exchange": "okx"}, {"exchange_id": "okx"}, {"exchange": "okx", "exchange_id": "okx"}):
        config = make_config(**given)
        assert (config.exchange, config.exchange_id) == ("okx", "okx")
    for given in ({"batch_limit": 5}, {"window_size": 5}, {"batch_limit": 5, "window_size": 5}):
        config = make_config(exchange="okx", **given)
        assert (config.batch_limit, config.window_size) == (5, 5)
    for given in ({"exchange": "okx", "exchange_id": "kraken"}, {"batch_limit": 5, "window_size": 6}):
        with pytest.raises(ValueError, match="are unequal"):
            make_config(**{"exchange": "okx", **given})
    with pytest.raises(ValueError, match="exchange: is required"):
        make_config()
    with pytest.raises(AttributeError):
        make_config(exchange="okx").exchange = "kraken"
    with pytest.raises(TypeError):
        make_config("okx")


def test_03_alias_pairs_of_the_limiter() -> None:
    both: list[dict[str, Any]] = [{"min_interval_s": 0.2}, {"min_interval_ms": 200}]
    for given in (*both, {**both[0], **both[1]}):
        config = RateLimiterConfig(**given)
        assert (config.min_interval_s, config.min_interval_ms, config.rate()) == (0.2, 200, 5)
    assert RateLimiterConfig(local_semaphore=3).max_concurrency == 3
    assert RateLimiterConfig(max_concurrency=3).local_semaphore == 3
    with pytest.raises(ValueError, match="are unequal"):
        RateLimiterConfig(min_interval_s=0.2, min_interval_ms=300)
    with pytest.raises(ValueError, match="are unequal"):
        RateLimiterConfig(max_concurrency=2, local_semaphore=3)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"exchange": "../etc"}, "exchange"),
        ({"exchange": "Binance"}, "exchange"),
        ({"exchange": ""}, "exchange"),
        ({"exchange": 7}, "exchange"),
        ({"symbols": "BTC/USDT"}, "symbols"),
        ({"symbols": ["BTC/USDT", ""]}, "symbols"),
        ({"symbols": ["BTC\0USDT"]}, "symbols"),
        ({"symbols": ["BTC USDT"]}, "symbols"),
        ({"symbols": ["x" * 300]}, "symbols"),
        ({"symbols": [None]}, "symbols"),
        ({"timeframe": "2m"}, "timeframe"),
        ({"timeframe": []}, "timeframe"),
        ({"batch_limit": 0}, "batch_limit"),
        ({"batch_limit": True}, "batch_limit"),
        ({"batch_limit": 1.5}, "batch_limit"),
        ({"earliest_ts": -1}, "earliest_ts"),
        ({"max_retries": -1}, "max_retries"),
        ({"retry_backoff_s": float("nan")}, "retry_backoff_s"),
        ({"max_concurrent_windows": 0}, "max_concurrent_windows"),
        ({"min_interval_ms": -5}, "min_interval_ms"),
        ({"grid_offset_s": 1.5}, "grid_offset_s"),
        ({"rate_limiter": 5}, "rate_limiter"),
        ({"min_interval_ms": 5, "rate_limiter": RateLimiterConfig(min_interval_ms=6)}, "min_interval_ms"),
    ],
)
def test_36_hostile_configuration_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CcxtBackfillConfig(**{"exchange": "binance", **fields})


def test_the_limiter_of_a_configuration() -> None:
    config = CcxtBackfillConfig(exchange="binance", min_interval_ms=250)
    assert config.rate_limiter.rate() == 4
    same = RateLimiterConfig(min_interval_ms=250, max_concurrency=2)
    assert CcxtBackfillConfig(exchange="a", min_interval_ms=250, rate_limiter=same).rate_limiter == same
    rated = RateLimiterConfig(tokens_per_interval=10, interval_ms=1000, min_interval_s=1)
    assert (rated.rate(), rated.capacity, rated.rate(50)) == (10, 10, 10)
    plain = RateLimiterConfig()
    assert (plain.rate(50), plain.rate(), plain.capacity) == (20, None, 1)
    assert "hunter2" not in repr(RateLimiterConfig(redis_dsn="redis://:hunter2@localhost:1"))
    for bad in (
        {"scope": "world"},
        {"redis_dsn": "http://x"},
        {"tokens_per_interval": 5},
        {"interval_ms": 5},
        {"burst_tokens": 0.5},
        {"degraded_ratio": 0},
        {"degraded_ratio": 1.5},
        {"max_concurrency": 0},
        {"penalty_backoff_ms": float("inf")},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RateLimiterConfig(**bad)
