"""Every recorded frame means something: an event, a typed message or a named refusal."""

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from qmtl.core.event import (
    AccountUpdated,
    BarClosed,
    FundingPaid,
    MarkPriceUpdated,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    PriceUpdated,
    Transferred,
)
from qmtl.core.order import PositionSide, Side
from qmtl.runtime.io.binance_account_messages import (
    AccountConfigured,
    ListenKeyExpired,
    MarginCalled,
    Refusal,
)
from qmtl.runtime.io.binance_market_messages import (
    BookTicker,
    DayTicker,
    DepthSnapshot,
    DepthUpdate,
    Liquidation,
    Trade,
)
from qmtl.runtime.io.binance_messages import BinanceMessageMapper, Message
from qmtl.runtime.io.binance_order_messages import AlgoTriggered, TradeLite

Find = Callable[[str], Path]
KLINE = (
    b'{"e":"kline","E":1638747660000,"s":"BTCUSDT","k":{"t":1638747600000,"T":1638747659999,"s":"BTCUSDT",'
    b'"i":"1m","f":100,"L":200,"o":"61800.10","c":"61800.20","h":"61800.25","l":"61800.05","v":"12.5","n":9,'
    b'"x":true,"q":"1.0","V":"5","Q":"0.5","B":"1"}}'
)


def parse_one(body: bytes | str | dict[str, object]) -> Message:
    mapper = BinanceMessageMapper()
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    messages = mapper.parse(raw)
    assert mapper.unknown == {}
    return messages[-1]


@pytest.mark.recorded
def test_every_recorded_frame_decodes_and_the_book_chain_holds(recorded_file: Find) -> None:
    mapper = BinanceMessageMapper()
    counts: Counter[str] = Counter()
    final_id = 0
    with gzip.open(recorded_file("recordings/usdm_ws/usdm_btcusdt_20240808.gz")) as lines:
        for line in lines:
            (message,) = mapper.parse(line.split(b" ", 1)[1])
            counts[type(message).__name__] += 1
            if isinstance(message, DepthUpdate):
                assert final_id in {0, message.previous_id}
                final_id = message.final_id
    assert mapper.unknown == {}
    assert counts == {"BookTicker": 66_089, "Trade": 21_313, "DepthUpdate": 6_551, "DepthSnapshot": 1}


MARKET = {
    "ticker_stream": DayTicker,
    "mark_price_stream": MarkPriceUpdated,
    "book_ticker_stream": BookTicker,
    "trade_stream": Trade,
    "kline_stream_open": PriceUpdated,
    "kline_stream_closed": BarClosed,
    "depth_update_stream": DepthUpdate,
    "liquidation_stream": Liquidation,
    "agg_trade_stream": Trade,
}
USER = {
    "order_update_calculated": OrderFilled,
    "algo_update_canceled": OrderCanceled,
    "order_update_trade_partial": OrderFilled,
    "order_update_trade": OrderFilled,
    "trade_lite": TradeLite,
    "order_update_adl": OrderFilled,
    "algo_update_new": OrderAccepted,
    "account_update_bnfcr": AccountUpdated,
    "order_update_new": OrderAccepted,
    "order_update_delivery": OrderFilled,
    "account_update": AccountUpdated,
    "order_update_calculated_pending": Refusal,
    "order_update_insurance": OrderFilled,
    "order_update_settlement": OrderFilled,
}


@pytest.mark.recorded
@pytest.mark.parametrize(("room", "expected"), [("market_data_json", MARKET), ("user_data_json", USER)])
def test_every_recorded_event_maps(recorded_file: Find, room: str, expected: dict[str, type]) -> None:
    files = {path.stem: path for path in recorded_file(f"recordings/binance_events/{room}").glob("*.json")}
    assert {name: type(parse_one(path.read_bytes())) for name, path in files.items()} == expected


@pytest.mark.recorded
def test_spot_samples_are_refused_by_name(recorded_file: Find) -> None:
    lines = recorded_file("recordings/binance_rest/binance_wsHandleData.json").read_bytes().splitlines()
    kinds = [parse_one(line) for line in lines]
    refused = [kind.name for kind in kinds if isinstance(kind, Refusal)]
    assert refused == ["balanceUpdate", "listStatus", "executionReport", "outboundAccountPosition"]
    assert [type(kind) for kind in kinds[:4]] == [DayTicker, PriceUpdated, Trade, DepthUpdate]


@pytest.mark.recorded
def test_forced_fills_keep_the_ids_of_the_venue(recorded_file: Find) -> None:
    room = recorded_file("recordings/binance_events/user_data_json")
    fill = parse_one((room / "order_update_adl.json").read_bytes())
    assert isinstance(fill, OrderFilled)
    assert (fill.client_order_id, fill.side, fill.position_side) == (
        "adl_autoclose_12345",
        Side.BUY,
        PositionSide.SHORT,
    )
    assert (fill.quantity, fill.price, fill.fee, fill.fee_asset) == (
        Decimal("0.005"),
        Decimal(42000),
        Decimal("0.105"),
        "USDT",
    )


def test_a_kline_reads_alike_raw_and_wrapped() -> None:
    bar = BarClosed(1638747660000, "BTCUSDT", 1638747600000, 61800.1, 61800.25, 61800.05, 61800.2, 12.5)
    assert parse_one(KLINE) == bar
    assert parse_one(b'{"stream":"btcusdt@kline_1m","data":' + KLINE + b"}") == bar
    pair = KLINE.replace(b'"kline"', b'"continuous_kline"').replace(b'"s":"BTCUSDT"', b'"ps":"BTCUSDT"', 1)
    assert parse_one(pair.replace(b'"k":', b'"ct":"PERPETUAL","k":')) == bar
    other = parse_one(pair.replace(b'"k":', b'"ct":"CURRENT_QUARTER","k":'))
    assert other == Refusal("continuous_kline CURRENT_QUARTER", "the engine trades perpetual contracts")


def order_update(**fields: object) -> dict[str, object]:
    order = {
        "s": "BTCUSDT",
        "c": "q1",
        "S": "BUY",
        "o": "LIMIT",
        "i": 7,
        "l": "0",
        "L": "0",
        "t": 0,
        **fields,
    }
    return {"e": "ORDER_TRADE_UPDATE", "E": 6, "T": 5, "o": order}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"x": "NEW", "X": "NEW"}, OrderAccepted(5, "q1", "7")),
        ({"x": "CANCELED", "X": "CANCELED"}, OrderCanceled(5, "q1", "", "7")),
        ({"x": "EXPIRED", "X": "EXPIRED", "er": 0}, OrderExpired(5, "q1", "", "7")),
        ({"x": "EXPIRED", "X": "EXPIRED_IN_MATCH"}, OrderExpired(5, "q1", "expired_in_match", "7")),
        ({"x": "REJECTED", "X": "REJECTED"}, OrderRejected(5, "q1", "rejected")),
    ],
)
def test_order_updates(fields: dict[str, object], expected: Message) -> None:
    assert parse_one(order_update(**fields)) == expected


def test_the_child_of_a_conditional_order_answers_to_our_id() -> None:
    mapper = BinanceMessageMapper()
    algo = {"caid": "qstop", "aid": 3, "X": "TRIGGERED", "ai": "7"}
    body = json.dumps({"e": "ALGO_UPDATE", "T": 4, "E": 4, "o": algo}).encode()
    assert mapper.parse(body) == (AlgoTriggered(4, "qstop", "7"),)
    update = order_update(x="TRADE", X="FILLED", l="0.1", L="100", t=9, c="of-the-venue")
    (fill,) = mapper.parse(json.dumps(update).encode())
    assert isinstance(fill, OrderFilled)
    assert (fill.client_order_id, fill.venue_order_id) == ("qstop", "7")
    reject = {
        "e": "CONDITIONAL_ORDER_TRIGGER_REJECT",
        "E": 5,
        "T": 5,
        "or": {"s": "BTCUSDT", "i": 7, "r": "no"},
    }
    assert mapper.parse(json.dumps(reject).encode()) == (OrderRejected(5, "qstop", "no"),)


def test_balance_changes_have_a_cause() -> None:
    def update(reason: str, change: str) -> tuple[Message, ...]:
        account = {"m": reason, "B": [{"a": "USDT", "wb": "100.5", "cw": "0", "bc": change}], "P": []}
        body = {"e": "ACCOUNT_UPDATE", "E": 28_800_003, "T": 28_800_001, "a": account}
        return BinanceMessageMapper().parse(json.dumps(body).encode())

    funding, stated = update("FUNDING_FEE", "-0.50")
    assert funding == FundingPaid(28_800_001, "", Decimal("-0.50"), "8:USDT:-0.5")
    assert isinstance(stated, AccountUpdated)
    assert stated.balances[0].wallet == Decimal("100.5")
    moved, _ = update("DEPOSIT", "10")
    assert moved == Transferred(28_800_001, "USDT", Decimal(10), "28800:USDT:10")
    assert [type(m) for m in update("ORDER", "0")] == [AccountUpdated]
    assert [type(m) for m in update("MARGIN_TRANSFER", "5")] == [AccountUpdated]


def test_account_notices() -> None:
    call = {
        "e": "MARGIN_CALL",
        "E": 1,
        "cw": "3",
        "p": [{"s": "BTCUSDT", "ps": "LONG", "pa": "1.3", "mm": "1.6"}],
    }
    assert parse_one(call) == MarginCalled(1, (("BTCUSDT", Decimal("1.3"), Decimal("1.6")),))
    expired = parse_one({"e": "listenKeyExpired", "E": 2, "listenKey": "pqia91ma19a5s61cv6a81va65"})
    assert expired == ListenKeyExpired(2)
    config = {"e": "ACCOUNT_CONFIG_UPDATE", "E": 3, "T": 3, "ac": {"s": "BTCUSDT", "l": 25}}
    assert parse_one(config) == AccountConfigured(3, "BTCUSDT", 25)


def test_what_is_not_understood_is_counted() -> None:
    mapper = BinanceMessageMapper()
    for body in (b'{"e":"newThing","E":1}', b'{"e":"kline","E":"x"}', b"junk", b'{"a":1}'):
        (message,) = mapper.parse(body)
        assert isinstance(message, Refusal)
    assert mapper.unknown == {"newThing": 1, "malformed kline": 1, "malformed": 1, "nameless": 1}
    assert parse_one(b'{"result":null,"id":3}') == Refusal("answer", "to request 3")
    assert isinstance(parse_one(b'{"error":{"code":2,"msg":"bad"},"id":3}'), Refusal)
    assert isinstance(
        parse_one(b'{"lastUpdateId":5,"E":1,"T":1,"bids":[["1","2"]],"asks":[]}'), DepthSnapshot
    )


def test_a_kline_costs_little_beside_plain_json() -> None:
    mapper = BinanceMessageMapper()
    decode = msgspec.json.Decoder().decode

    def measure(work: Callable[[bytes], object]) -> float:
        start = time.perf_counter()
        for _ in range(1000):
            work(KLINE)
        return time.perf_counter() - start

    # Turn about, so that a busy machine slows both; the best of each is what the code costs.
    pairs = [(measure(mapper.parse), measure(decode)) for _ in range(20)]
    ours, bare = (min(times) for times in zip(*pairs, strict=True))
    # Decoding into bare dicts, without floats, costs about as much as the typed event does.
    assert ours < 2.5 * bare
