"""The live view and the texts of a status, from plain data."""

import io
from typing import Any

import pytest
from rich.console import Console

from qmtl.cli.live_view import LiveView
from qmtl.cli.status_text import dump_decision, dump_status, explain, price

NOON = 1_795_262_441_000
BANDS = {"upperInter": 60_006.1, "upperBand": 60_040.0, "lowerInter": 59_950.0, "lowerBand": 59_900.0}
STATUS: dict[str, Any] = {
    "account": "demo",
    "domain": "dryrun",
    "asset": "USDT",
    "state": "REDUCING",
    "state_who": "risk",
    "state_why": "max_daily_loss",
    "is_ready": False,
    "not_ready": ["user is stale: silent"],
    "now_ms": NOON,
    "equity": "9990.5",
    "day_pnl": "-9.5",
    "pnl": "-9.5",
    "fees": "1.44",
    "drawdown": 0.001,
    "limits": {"max_daily_loss": "50", "max_position": None},
    "counts": {"candles": 10, "decisions": 10, "orders": 2, "fills": 1},
    "reasons": {"no_signal": 9, "entered": 1},
    "unsettled": 0,
    "marks": {"BTCUSDT": 60_012.3},
    "bands": BANDS,
    "feeds": {"user": {"is_fresh": False, "reason": "silent"}},
    "clock_offset_ms": 12.0,
    "journal": "demo.db",
    "positions": [
        {
            "symbol": "BTCUSDT",
            "side": "BOTH",
            "quantity": "-0.010",
            "entry_price": "60012.3",
            "mark": "60000",
            "unrealized": "0.123",
            "stop": None,
            "unprotected_s": 12.0,
            "venue_quantity": "-0.020",
        }
    ],
    "orders": [
        {
            "client_order_id": "qabc",
            "symbol": "BTCUSDT",
            "side": "BUY",
            "type": "LIMIT",
            "role": "exit",
            "quantity": "0.010",
            "filled": "0",
            "limit_price": "59900",
            "stop_price": None,
            "status": "accepted",
        }
    ],
    "last_decision": {"ts_ms": NOON, "reason": "entered", "gate": "", "numbers": None},
}
INTENT = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.010", "role": "entry", "why": "above upper band"}
FILL = {
    "event": "OrderFilled",
    "ts_ms": NOON,
    "client_order_id": "qabc",
    "side": "BUY",
    "quantity": "0.010",
    "symbol": "BTCUSDT",
    "price": "60012.3",
    "fee": "0.2400492",
}


class Desk:
    def status(self) -> dict[str, Any]:
        return STATUS


def view(word: str = "SYNTHETIC") -> tuple[LiveView, Console]:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    shown = LiveView(console, f"{word} · paper exchange 127.0.0.1:8610", word, tells_decisions=True)
    shown._controlled = Desk()  # type: ignore[assignment]
    return shown, console


def test_a_fill_is_the_line_of_the_transcript() -> None:
    shown, _ = view()
    shown.take({"event": "IntentRecorded", "ts_ms": NOON, "client_order_id": "qabc", "intent": INTENT})
    line = "12:00:41 LONG 0.010 BTCUSDT @ 60,012.3 · why: above band 60,006.1 · fee 0.24"
    assert shown.take(FILL) == line


@pytest.mark.parametrize(
    ("news", "line"),
    [
        ({"event": "IntentRefused", "code": "halted", "detail": "smoke"}, "12:00:41 refused halted: smoke"),
        (
            {"event": "OrderRejected", "client_order_id": "q1", "reason": "-2019"},
            "12:00:41 rejected q1: -2019",
        ),
        (
            {"event": "StateChanged", "state": "HALTED", "who": "me", "why": "smoke"},
            "12:00:41 HALTED by me: smoke",
        ),
        ({"event": "StateChanged", "state": "HALTED", "who": "me", "why": ""}, "12:00:41 HALTED by me"),
        (
            {"event": "FeedStateChanged", "stream": "user", "is_fresh": False, "reason": "silent"},
            "12:00:41 stale user: silent",
        ),
        ({"event": "FeedStateChanged", "stream": "user", "is_fresh": False, "reason": "connecting"}, ""),
        ({"event": "FeedStateChanged", "stream": "user", "is_fresh": True, "reason": ""}, ""),
        ({"event": "BarClosed"}, ""),
    ],
)
def test_what_is_worth_a_line(news: dict[str, Any], line: str) -> None:
    assert view()[0].take({"ts_ms": NOON, **news}) == line


def test_the_panel_shows_everything_that_matters() -> None:
    shown, console = view()
    shown.take({"event": "IntentRecorded", "ts_ms": NOON, "client_order_id": "qabc", "intent": INTENT})
    shown.take(FILL)
    shown.take(
        {"event": "DecisionMade", "ts_ms": NOON, "reason": "refused", "gate": "[cooldown]", "numbers": {}}
    )
    shown._status = STATUS
    console.print(shown.render())
    out = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        " SYNTHETIC   REDUCING  paper exchange 127.0.0.1:8610",
        "equity 9,990.50 USDT · day -9.50/−50.00 · PnL -9.50 · fees 1.44",
        "BTCUSDT 60,012.3 · bands 60,040.0 | 60,006.1 | 59,950.0 | 59,900.0",
        "stale: user · clock +12 ms",
        "not ready: user is stale: silent",
        "SHORT 0.010 BTCUSDT",
        "none 12 s",
        "exit BUY 0.010 LIMIT",
        "12:00:41 refused: [cooldown]",
        "12:00:41 LONG 0.010 BTCUSDT @ 60,012.3",
    ):
        assert part in out


def test_the_status_page_tells_every_reason() -> None:
    text = dump_status(STATUS)
    for part in (
        "demo · dryrun · REDUCING · NOT READY",
        "REDUCING: max_daily_loss (by risk)",
        "position SHORT 0.010 BTCUSDT @ 60,012.3 · mark 60,000.0 · +0.12 · NO STOP 12 s · VENUE SAYS -0.020",
        "10 closed bars: 9 no signal, 1 entered",
        "last bar 12:00:41 entered",
        "limits max_daily_loss 50",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("close", "text"),
    [
        (60_000.0, "no entry: close 60,000.0 ≤ upper 60,006.1 (0.01 % away)"),
        (59_951.0, "no entry: close 59,951.0 ≥ lower 59,950.0 (0.00 % away)"),
        (60_010.0, "no entry: close 60,010.0 > upper 60,006.1, not a fresh break"),
        (59_940.0, "no entry: close 59,940.0 < lower 59,950.0, not a fresh break"),
    ],
)
def test_no_signal_gives_the_numbers_and_the_distance(close: float, text: str) -> None:
    distance = min(BANDS["upperInter"] - close, close - BANDS["lowerInter"]) / close
    decision = {
        "ts_ms": NOON,
        "reason": "no_signal",
        "numbers": {**BANDS, "close": close, "distance": distance},
    }
    assert dump_decision(decision) == f"12:00:41 {text}"


def test_words_and_prices() -> None:
    assert explain("refused", "cooldown", {}) == "refused: cooldown"
    assert explain("not_trading", "halted by me", {}) == "not trading: halted by me"
    assert explain("no_signal", "", {}) == "no signal"
    assert [price(text) for text in ("60012.3", "0.12346", "1", "1e3", None)] == [
        *("60,012.3", "0.1235", "1.0", "1,000.0", "0.0"),
    ]


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        (
            {"close": 60_102.1, "upper": 60_119.8, "lower": 59_990.0, "distance": 17.7 / 60_102.1},
            "no entry: close 60,102.1 ≤ upper 60,119.8 (0.03 % away)",
        ),
        (
            {"close": 60_002.1, "upper": 60_119.8, "lower": 59_990.0, "distance": 12.1 / 60_002.1},
            "no entry: close 60,002.1 ≥ lower 59,990.0 (0.02 % away)",
        ),
        ({"close": 60_002.1}, "no entry: close 60,002.1"),
    ],
)
def test_01_a_strategys_lines_explain_a_bar_without_signal(numbers: dict[str, float], line: str) -> None:
    """quickstart §1: 12:04:00 no entry: close 60,102.1 ≤ upper 60,119.8 (0.03 % away)."""
    assert explain("no_signal", "", numbers) == line
