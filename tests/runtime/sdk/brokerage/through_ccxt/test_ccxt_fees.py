"""One order against one price, with fees that ccxt knows."""

import logging
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from qmtl.runtime.sdk.brokerage import (
    Account,
    BrokerageModel,
    FractionSlippage,
    MakerTakerFeeModel,
    Order,
    SpreadSlippage,
    VolumeShareSlippage,
    ccxt_fees,
    make_ccxt_brokerage,
)
from tests.runtime.sdk.brokerage.through_ccxt.conftest import Venue

FEES = MakerTakerFeeModel(Decimal("0.001"), Decimal("0.002"))
BUY = Order(symbol="BTC/USDT", side="BUY", quantity=1)


def funded(cash: int = 100_000) -> Account:
    account = Account()
    account.transfer(Decimal(cash))
    return account


def limit(price: float, **given: Any) -> Order:
    return Order(**{"symbol": "BTC/USDT", "side": "BUY", "quantity": 1, "limit_price": price, **given})


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    ccxt_fees._cache.clear()
    yield
    ccxt_fees._cache.clear()


def test_45_a_limit_below_the_market_does_not_fill() -> None:
    account = funded()
    fill = BrokerageModel(FEES).execute_order(account, limit(10_000), 50_000.0)
    assert (fill.quantity, fill.fee, account.flow) == (0, 0, 100_000)


def test_45_the_fee_is_on_what_filled() -> None:
    account = funded()
    fill = BrokerageModel(FEES).execute_order(account, limit(50_000), 50_000.0, bar_volume=0.4)
    assert (fill.quantity, fill.price, fill.fee) == (Decimal("0.4"), 50_000, 20)
    assert account.flow == Decimal(100_000) - 20_000 - 20


@pytest.mark.parametrize(
    ("order", "rate"),
    [
        (limit(50_000), "0.001"),
        (limit(50_000, time_in_force="IOC"), "0.002"),
        (limit(50_000, time_in_force="FOK"), "0.002"),
        (limit(50_000, adds_liquidity=False), "0.002"),
        (BUY, "0.002"),
        (Order(symbol="BTC/USDT", side="BUY", quantity=1, type="stop", stop_price=49_000), "0.002"),
        (Order(symbol="BTC/USDT", side="BUY", quantity=1, adds_liquidity=True), "0.001"),
    ],
)
def test_who_takes_pays_taker(order: Order, rate: str) -> None:
    fill = BrokerageModel(FEES).execute_order(funded(), order, 50_000)
    assert fill.fee == 50_000 * Decimal(rate)


def test_a_stop_waits_and_a_fok_takes_all_or_nothing() -> None:
    model, account = BrokerageModel(FEES), funded()
    stop = Order(symbol="BTC/USDT", side="BUY", quantity=1, type="stop", stop_price=51_000)
    assert model.execute_order(account, stop, 50_000).quantity == 0
    fok = limit(50_000, time_in_force="FOK")
    assert model.execute_order(account, fok, 50_000, bar_volume=0.4).quantity == 0


@pytest.mark.parametrize(
    ("slippage", "order", "price"),
    [
        (None, BUY, "50000"),
        (FractionSlippage(Decimal("0.01")), BUY, "50500"),
        (SpreadSlippage(), BUY, "50012.5"),
        (SpreadSlippage(), Order(symbol="X/USDT", side="BUY", quantity=1, spread_hint=10), "50005"),
        (VolumeShareSlippage(), BUY, "50312.5"),
        (FractionSlippage(Decimal("0.01")), limit(50_100), "50100"),
    ],
)
def test_slippage_never_passes_the_limit(slippage: Any, order: Order, price: str) -> None:
    assert BrokerageModel(FEES, slippage).execute_order(funded(), order, 50_000).price == Decimal(price)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (Order(symbol="BTC/USDT", side="SELL", quantity=1), "insufficient balance"),
        (Order(symbol="BTC/USDT", side="BUY", quantity=3), "insufficient balance"),
        (Order(symbol="BTC/USDT", side="BUY", quantity=-1), "quantity"),
        (Order(symbol="BTC/USDT", side="BUY", quantity=float("nan")), "quantity"),
        ({"symbol": "BTC/USDT", "side": "up", "quantity": 1}, "side"),
    ],
)
def test_what_the_account_cannot_carry_is_an_error(order: Any, told: str) -> None:
    account = funded()
    with pytest.raises(ValueError, match=told):
        BrokerageModel(FEES).execute_order(account, order, 50_000)
    assert (account.flow, account.net_quantity("BTCUSDT")) == (100_000, 0)


def test_futures_may_open_a_short() -> None:
    account = funded()
    model = BrokerageModel(FEES, product="futures")
    model.execute_order(account, {"symbol": "BTC/USDT", "side": "SELL", "quantity": 1}, 50_000)
    assert account.net_quantity("BTCUSDT") == -1
    with pytest.raises(ValueError, match="Margin"):
        model.execute_order(account, Order(symbol="ETH/USDT", side="BUY", quantity=3), 50_000)


# --- fees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "product", "maker", "taker"),
    [("binance", "spot", 0.001, 0.001), ("binance", "futures", 0.0002, 0.0005)],
)
def test_an_exchanges_own_fees(
    exchange: str, product: str, maker: float, taker: float, configure: Callable[..., None]
) -> None:
    fees = make_ccxt_brokerage(exchange, product=product).fee_model
    assert (fees.maker_rate, fees.taker_rate) == (maker, taker)


def test_a_markets_fees_and_steps(paper: Venue) -> None:
    model = make_ccxt_brokerage("binanceusdm", product="futures", symbol="BTCUSDT", sandbox=True)
    assert model.fee_model.maker_rate == 0.0002
    assert model.instrument is not None
    assert (model.instrument.tick_size, model.instrument.lot_size) == (Decimal("0.1"), Decimal("0.001"))
    order = Order(symbol="BTC/USDT", side="BUY", quantity=1)
    assert model.execute_order(funded(), order, 50_000, bar_volume=0.4567).quantity == Decimal("0.456")
    with pytest.raises(ValueError, match="NOPE"):
        make_ccxt_brokerage("binanceusdm", product="futures", symbol="NOPE/USDT", sandbox=True)


MADE: list[dict[str, Any]] = []


class Quiet:
    """An exchange that says nothing of fees, or what the test gives it."""

    fees: Any = None

    def __init__(self, config: dict[str, Any]) -> None:
        MADE.append(config)


def test_the_fallback_warns_and_rebates_are_kept(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", SimpleNamespace(quiet=Quiet))
    with caplog.at_level(logging.WARNING):
        assert make_ccxt_brokerage("quiet").fee_model.taker_rate == 0.0007
        assert make_ccxt_brokerage("quiet", defaults=(0.1, 0.2)).fee_model.maker_rate == 0.1
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    monkeypatch.setattr(Quiet, "fees", {"trading": {"maker": -0.0001, "taker": 0.0003}})
    made = len(MADE)
    assert [make_ccxt_brokerage("quiet").fee_model.maker_rate for _ in range(2)] == [-0.0001, -0.0001]
    assert len(MADE) == made + 1


def test_wrong_arguments_say_so(configure: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="'margin'"):
        make_ccxt_brokerage("binance", product="margin")
    with pytest.raises(ValueError, match="'binanse'"):
        make_ccxt_brokerage("binanse")
    assert isinstance(
        make_ccxt_brokerage("x", detect_fees=False, use_spread_slippage=True).slippage_model, SpreadSlippage
    )
