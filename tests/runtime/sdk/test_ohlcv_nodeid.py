"""seamless.md §3: names of series, there and back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.instrument import unify_symbol
from qmtl.runtime.io.artifacts import encode_part
from qmtl.runtime.sdk.ohlcv_nodeid import (
    TIMEFRAME_SECONDS,
    NodeId,
    NodeIdError,
    build,
    build_trades,
    parse,
    parse_node_id,
    validate,
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abc/:%-._~+&=?#()'\"\\@!$é中💹"
TIMEFRAMES = list(TIMEFRAME_SECONDS)


def test_04_ten_thousand_symbols_come_back() -> None:
    source = random.Random(4)
    symbols = {"BTC/USDT", "BTC/USDT:USDT", "%3A", "%25", "%253A", ":", "%", "a:b%c"}
    while len(symbols) < 10_000:
        symbols.add("".join(source.choices(ALPHABET, k=source.randint(1, 30))))
    names, places = set(), set()
    for number, symbol in enumerate(sorted(symbols)):
        timeframe = TIMEFRAMES[number % len(TIMEFRAMES)]
        bars = build("binanceusdm", symbol, timeframe, escape=True)
        assert parse(bars) == ("binanceusdm", symbol, timeframe)
        assert parse_node_id(bars) == NodeId("ohlcv", "binanceusdm", symbol, timeframe)
        assert validate(bars)
        trades = build_trades("binanceusdm", symbol, escape=True)
        assert parse_node_id(trades) == NodeId("trades", "binanceusdm", symbol, None)
        assert parse(trades) is None
        if not {":", "%"} & set(symbol):
            assert build("binanceusdm", symbol, timeframe) == bars
        names |= {bars, trades}
        places |= {encode_part(bars), encode_part(trades)}
    assert len(names) == len(places) == 2 * len(symbols)


@pytest.mark.parametrize(
    ("node_id", "message"),
    [
        (
            "ohlcv:binanceusdm:BTC/USDT:USDT:1m",
            "the symbol holds an unescaped ':'; write 'ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m'",
        ),
        (
            "trades:binanceusdm:BTC/USDT:USDT",
            "the symbol holds an unescaped ':'; write 'trades:binanceusdm:BTC/USDT%3AUSDT'",
        ),
        ("ohlcv:binance:BTC/USDT%3aUSDT:1m", "only %25 and %3A are escapes, in upper case"),
        ("ohlcv:binance:BTC%USDT:1m", "only %25 and %3A are escapes, in upper case"),
        ("ohlcv:binance:BTC/USDT:7m", "timeframe '7m' is not known"),
        ("ohlcv:Binance:BTC/USDT:1m", "exchange 'Binance' is not lower-case letters, digits and _"),
        ("ohlcv:binance::1m", "the symbol is empty"),
        ("ohlcv:binance:BTC USDT:1m", "the symbol holds white space or a control character"),
        ("ohlcv:binance:BTC\0:1m", "the symbol holds white space or a control character"),
        ("ohlcv:binance:1m", "expected ohlcv:exchange:symbol:timeframe"),
        ("trades:binance", "expected trades:exchange:symbol"),
        ("price:binance:BTC/USDT:1m", "it must start with ohlcv: or trades:"),
        (None, "expected text, got NoneType"),
    ],
)
def test_04_what_is_no_name_says_why_and_what_to_write(node_id: object, message: str) -> None:
    with pytest.raises(NodeIdError) as caught:
        parse_node_id(node_id)
    assert str(caught.value) == f"cannot resolve node_id '{node_id}': {message}"
    assert parse(node_id) is None
    assert not validate(node_id)


@pytest.mark.parametrize(
    "arguments", [("", "A", "1m"), ("b", "", "1m"), ("b", "A", "2m"), ("b", "A B", "1m")]
)
def test_04_a_blank_part_or_an_unknown_timeframe_is_refused(arguments: tuple[str, str, str]) -> None:
    for escape in (False, True):
        with pytest.raises(ValueError, match=r"symbol|exchange|timeframe"):
            build(*arguments, escape=escape)


@pytest.mark.fuzz
@given(st.text(max_size=20))
def test_04_a_text_is_a_name_or_refused(symbol: str) -> None:
    try:
        name = build("x", symbol, "1m", escape=True)
    except ValueError:
        assert not symbol or any(c.isspace() or ord(c) < 32 or 127 <= ord(c) < 160 for c in symbol)
        return
    assert parse(name) == ("x", symbol, "1m")


@pytest.mark.parametrize(
    ("spelling", "spot", "linear"),
    [
        ("BTCUSDT", "BTC/USDT", "BTC/USDT:USDT"),
        (" btcusdt ", "BTC/USDT", "BTC/USDT:USDT"),
        ("BTC/USDT", "BTC/USDT", "BTC/USDT:USDT"),
        ("btc/usdt:usdt", "BTC/USDT:USDT", "BTC/USDT:USDT"),
        ("1000SHIB/USDC", "1000SHIB/USDC", "1000SHIB/USDC:USDC"),
        ("ETH/BTC", "ETH/BTC", "ETH/BTC:BTC"),
        ("BTC/USDT:USDT-261225", "BTC/USDT:USDT-261225", "BTC/USDT:USDT-261225"),
    ],
)
def test_every_spelling_has_one_unified_form(spelling: str, spot: str, linear: str) -> None:
    assert unify_symbol(spelling, is_linear=False) == spot
    assert unify_symbol(spelling, is_linear=True) == linear


@pytest.mark.parametrize("spelling", ["", "BTC", "BTC USDT", "BTC-USDT", "ABCDEFG"])
def test_what_is_no_symbol(spelling: str) -> None:
    with pytest.raises(ValueError, match="symbol"):
        unify_symbol(spelling, is_linear=True)
