"""Who may ask: keys, signatures over the very characters sent, and time windows in real milliseconds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.engine.clock import ScaledClock, SystemClock
from qmtl.services.paper_exchange.auth import check_signature, check_time, parse_params, sign
from qmtl.services.paper_exchange.errors import VenueError

# The example of the venue's own page ("General Info", SIGNED endpoint example).
SECRET = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
PAYLOAD = (
    "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC"
    "&recvWindow=5000&timestamp=1591702613943"
)
SIGNATURE = "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"


def test_the_venues_own_example_is_signed_alike() -> None:
    assert sign(SECRET, PAYLOAD) == SIGNATURE


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (f"{PAYLOAD}&signature={SIGNATURE}", ""),
        ("", f"{PAYLOAD}&signature={SIGNATURE}"),
        (f"signature={SIGNATURE}&{PAYLOAD}", ""),
    ],
)
def test_a_signature_is_found_wherever_it_stands(query: str, body: str) -> None:
    check_signature(SECRET, query, body, parse_params(query, body)["signature"])


def test_query_and_body_are_signed_together() -> None:
    query, body = "symbol=BTCUSDT&side=BUY", "quantity=1&timestamp=1"
    check_signature("s", query, f"{body}&signature=x", sign("s", query + body))
    with pytest.raises(VenueError, match="-1022"):
        check_signature("s", query, body, sign("s", f"{query}&{body}"))


@given(st.text("abcdefXYZ019=&%+ ", max_size=60), st.text("0123456789abcdef", min_size=1, max_size=64))
def test_only_the_right_signature_passes(payload: str, signature: str) -> None:
    query = payload.replace("signature", "")
    if signature != sign("s", query):
        with pytest.raises(VenueError, match="-1022"):
            check_signature("s", query, "", signature)


@pytest.mark.parametrize(
    ("age_ms", "window", "speed", "passes"),
    [
        (0, None, 1, True),
        (5_000, None, 1, True),
        (5_001, None, 1, False),
        (-999, None, 1, True),
        (-1_000, None, 1, False),
        (10_001, 10_000, 1, False),
        (60_000, 60_000, 1, True),
        (300_000, 5_000, 60, True),
        (300_061, 5_000, 60, False),
        (-59_000, None, 60, True),
    ],
)
def test_the_window_counts_real_milliseconds(
    age_ms: int, window: int | None, speed: float, passes: bool
) -> None:
    params = {"timestamp": str(1_000_000_000 - age_ms)} | ({"recvWindow": str(window)} if window else {})
    if passes:
        check_time(params, 1_000_000_000, speed)
    else:
        with pytest.raises(VenueError, match="-1021"):
            check_time(params, 1_000_000_000, speed)


@pytest.mark.parametrize(
    ("params", "code"),
    [({}, "-1102"), ({"timestamp": ""}, "-1102"), ({"timestamp": "x"}, "-1100")],
)
def test_a_bad_timestamp_is_named(params: dict[str, str], code: str) -> None:
    with pytest.raises(VenueError, match=code):
        check_time(params, 1, 1.0)


async def test_refusals_over_http(start: Any) -> None:
    trader = await start(clock=SystemClock(), is_manual=False)
    balance = "/fapi/v3/balance"
    assert (await trader.speak("GET", balance)).status == 200
    old = await trader.speak("GET", balance, timestamp=trader.server.clock.now_ms() - 6_000)
    assert (old.status, old.body["code"]) == (400, -1021)
    trader.secret = "wrong"
    assert (await trader.speak("GET", balance)).body["code"] == -1022
    trader.key = "nobody"
    refused = await trader.speak("GET", balance)
    assert (refused.status, refused.body["code"]) == (401, -2015)
    trader.key = ""
    assert (await trader.speak("GET", balance)).body["code"] == -2014
    trader.key = "paper"
    assert (await trader.ask(balance)).body["code"] == -1102
    assert (await trader.ask(balance, timestamp=1)).body["msg"].startswith("Mandatory parameter 'signature'")


async def test_an_open_exchange_takes_any_key_as_its_own_secret(start: Any) -> None:
    trader = await start(is_open=True)
    trader.key = trader.secret = "newcomer"
    assert (await trader.speak("GET", "/fapi/v3/balance")).body[0]["balance"] == "100000.00000000"
    trader.secret = "other"
    assert (await trader.speak("GET", "/fapi/v3/balance")).body["code"] == -1022


async def test_accounts_do_not_see_each_other(start: Any) -> None:
    trader = await start(accounts={"a": "1", "b": "2"})
    trader.key, trader.secret = "a", "1"
    await trader.limit("BUY", 40_000, "0.1", newClientOrderId="mine")
    trader.key, trader.secret = "b", "2"
    assert (await trader.speak("GET", "/fapi/v1/openOrders")).body == []
    assert (await trader.limit("BUY", 40_000, "0.1", newClientOrderId="mine")).status == 200


async def test_a_fast_clock_keeps_the_window_in_real_time(start: Any) -> None:
    trader = await start(clock=ScaledClock(1_748_000_000_000, 600), is_manual=False)
    now_ms = trader.server.clock.now_ms()
    assert (await trader.speak("GET", "/fapi/v3/balance", timestamp=now_ms - 600 * 4_000)).status == 200
    late = await trader.speak("GET", "/fapi/v3/balance", timestamp=now_ms - 600 * 5_500)
    assert late.body["code"] == -1021
    behind = (await trader.ask("/fapi/v1/time")).body["serverTime"] - now_ms
    assert 0 <= behind < 600 * 5_000
