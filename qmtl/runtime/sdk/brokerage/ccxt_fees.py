"""One order against one price, by the engine's simulator, with the fees ccxt knows of an exchange."""

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

from qmtl.core.account import Account
from qmtl.core.event import OrderFilled, OrderRejected
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.fill import Fill
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO, floor_to_step, parse_decimal
from qmtl.core.order import Order as EngineOrder
from qmtl.core.order import OrderIntent, OrderType, OrderValidationError, Side, TimeInForce
from qmtl.core.order_payload import to_broker_order
from qmtl.engine.matching import MatchingCore
from qmtl.engine.order_filter import FOK_REJECT, GTX_REJECT
from qmtl.engine.venue_models import FractionSlippage, NoSlippage, SlippageModel, VenueModels
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage.ccxt_market import find_market, parse_instrument, resolve_symbol
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import (
    ccxt_errors,
    enter_test_venue,
    make_exchange,
    open_session,
    replace_hosts,
    settle,
)
from qmtl.runtime.sdk.brokerage.intent_desk import parse_intent

Product = Literal["spot", "futures"]
DEFAULT_FEES = (0.0002, 0.0007)
"""(maker, taker) of an exchange that says nothing."""
DEFAULT_SPREAD = Decimal("0.0005")
"""Bid-ask spread as a fraction of price, where an order brings no `spread_hint`."""
_TAKERS = frozenset({"market", "stop"})
_AT_ONCE = frozenset({TimeInForce.IOC, TimeInForce.FOK})
_UNFILLED = (FOK_REJECT, GTX_REJECT)
_CONDITIONAL = frozenset({"stop", "stop_limit"})
_log = logging.getLogger("qmtl.brokerage")
_Found = tuple[MakerTakerFeeModel, Instrument | None]
_cache: dict[tuple[str, str, bool, str | None], _Found] = {}


class SpreadSlippage(msgspec.Struct, frozen=True):
    """Takers pay a fraction of the bid-ask spread; `spread` is in quote units, else 0.0005 of the price."""

    fraction: Decimal = Decimal("0.5")
    spread: Decimal | None = None

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        share = DEFAULT_SPREAD if self.spread is None else self.spread / price
        model = FractionSlippage(self.fraction * share)
        return model.slip(price, is_buy=is_buy, quantity=quantity, volume=volume, instrument=instrument)

    def describe(self) -> str:
        """See SlippageModel."""
        return f"slippage {self.fraction} of the spread"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order to simulate: `quantity` is positive base units, `spread_hint` the spread in quote units.

    `adds_liquidity` says which fee it pays; without it market, stop, IOC and FOK orders pay taker.
    """

    symbol: str
    side: str
    quantity: float | Decimal
    type: str | None = None
    limit_price: float | Decimal | None = None
    stop_price: float | Decimal | None = None
    time_in_force: str | None = None
    reduce_only: bool = False
    adds_liquidity: bool | None = None
    spread_hint: float | Decimal | None = None


class BrokerageModel:
    """A broker in memory: fees, slippage and account checks over the engine's fill simulator.

    Spot checks cash and holdings, futures margin at `leverage`. `instrument` brings the steps and minima
    that orders must keep; without it any are taken. A volume caps what fills, floored to the lot.
    """

    def __init__(
        self,
        fee_model: MakerTakerFeeModel | None = None,
        slippage_model: SlippageModel | None = None,
        *,
        product: Product = "spot",
        instrument: Instrument | None = None,
        leverage: int = 1,
    ) -> None:
        self.fee_model = fee_model or MakerTakerFeeModel()
        self.slippage_model: SlippageModel = slippage_model or NoSlippage()
        self.product = product
        self.instrument = instrument
        self.leverage = leverage

    def execute_order(
        self,
        account: Account,
        order: Order | Mapping[str, Any],
        market_price: float | Decimal,
        *,
        ts: int | None = None,
        bar_volume: float | None = None,
    ) -> Fill:
        """Fill what of `order` trades at `market_price` now, book it into `account`; quantity 0 is no fill.

        `ts` is UTC milliseconds, `bar_volume` the base units that can trade. What does not fill is
        gone. Raises ValueError for a wrong order or when the account cannot carry it.
        """
        body = _read(order)
        price = _positive(market_price, "market_price")
        intent = _intent(body)
        at_ms = ts or 0
        nothing = Fill(symbol=intent.symbol, side=intent.side, quantity=ZERO, price=price, ts_ms=at_ms)
        if intent.stop_price is not None:
            is_buy = intent.side is Side.BUY
            if price < intent.stop_price if is_buy else price > intent.stop_price:
                return nothing
        core = self._core(account, body, intent.symbol)
        book = core.book(intent.symbol)
        book.set_price(float(price), price)
        if bar_volume is not None:
            traded = parse_decimal(bar_volume, "bar_volume")
            book.volume, book.available = float(traded), floor_to_step(traded, book.instrument.lot_size)
        sent = EngineOrder(client_order_id="1", intent=intent, ordinal=1, created_ms=at_ms, updated_ms=at_ms)
        events = core.submit(sent, at_ms)
        refused = next((event for event in events if isinstance(event, OrderRejected)), None)
        if refused is not None and refused.reason not in _UNFILLED:
            raise ValueError(refused.reason.partition(" ")[2])
        fills = [event for event in events if isinstance(event, OrderFilled)]
        if not fills:
            return nothing
        quantity = sum((one.quantity for one in fills), ZERO)
        value = sum((one.quantity * one.price for one in fills), ZERO)
        fee = sum((one.fee for one in fills), ZERO)
        asset, maker = account.asset, _adds_liquidity(body)
        return msgspec.structs.replace(
            nothing, quantity=quantity, price=value / quantity, fee=fee, fee_asset=asset, is_maker=maker
        )

    def _core(self, account: Account, body: Mapping[str, Any], symbol: str) -> MatchingCore:
        rate = self.fee_model.maker if _adds_liquidity(body) else self.fee_model.taker
        slippage = self.slippage_model
        hint = body.get("spread_hint")
        if isinstance(slippage, SpreadSlippage) and hint is not None:
            slippage = SpreadSlippage(slippage.fraction, _positive(hint, "spread_hint"))
        # One price cannot tell who rested; the order's kind says it, so both roles pay its rate.
        models = VenueModels(fees=MakerTakerFeeModel(rate, rate), slippage=slippage)
        instrument = self.instrument or parse_instrument({})
        # What is held elsewhere ties up margin too.
        symbols = {symbol, *(held.symbol for held in account.positions.values())}
        instruments = {one: msgspec.structs.replace(instrument, symbol=one) for one in symbols}
        mode: Literal["cash", "isolated"] = "cash" if self.product == "spot" else "isolated"
        return MatchingCore(
            instruments, models=models, account=account, margin_mode=mode, leverage=self.leverage
        )


def make_ccxt_brokerage(
    exchange_id: str,
    *,
    product: str = "spot",
    symbol: str | None = None,
    sandbox: bool = False,
    detect_fees: bool = True,
    defaults: tuple[float, float] | None = None,
    use_spread_slippage: bool = False,
    spread_fraction: float = 0.5,
) -> BrokerageModel:
    """Return a simulated broker with the fees of a ccxt exchange; only a `symbol` makes it ask the venue.

    Fees, maker and taker, are the market's, else the exchange's trading fees, else `defaults`, else
    (0.0002, 0.0007); the last two are logged as a warning. Raises ValueError for an unknown product,
    exchange or symbol, SandboxUnavailable, and RuntimeError without ccxt.
    """
    if product not in {"spot", "futures"}:
        raise ValueError(f"product {product!r}: expected spot or futures")
    found = _detect(exchange_id, product, sandbox, symbol) if detect_fees else None
    if found is None:
        fees, instrument = _model(*(defaults or DEFAULT_FEES)), None
        _log.warning(
            "no fees of %s %s are known; using maker %s, taker %s",
            exchange_id,
            product,
            fees.maker,
            fees.taker,
        )
    else:
        fees, instrument = found
    slippage = SpreadSlippage(_positive(spread_fraction, "spread_fraction")) if use_spread_slippage else None
    is_spot = product == "spot"
    return BrokerageModel(fees, slippage, product="spot" if is_spot else "futures", instrument=instrument)


def _detect(exchange_id: str, product: str, sandbox: bool, symbol: str | None) -> _Found | None:  # noqa: FBT001
    key = (exchange_id, product, sandbox, symbol)
    if key not in _cache:
        found = BACKGROUND.run(_ask(exchange_id, product, sandbox, symbol))
        if found is None:
            return None
        _cache[key] = found
    return _cache[key]


async def _ask(exchange_id: str, product: str, sandbox: bool, symbol: str | None) -> _Found | None:  # noqa: FBT001
    is_contract = product == "futures"
    options = {"defaultType": "swap" if is_contract else "spot"}
    exchange = make_exchange(exchange_id, {"enableRateLimit": True, "options": options})
    base_url = runtime.settings().connectors.ccxt_base_url
    if sandbox:
        enter_test_venue(exchange_id, exchange, base_url)
    elif base_url:
        replace_hosts(exchange, base_url)
    instrument, market = None, {}
    if symbol is not None:
        await open_session(exchange)
        try:
            await settle(exchange.load_markets())
        except ccxt_errors("NetworkError") as error:
            _log.warning("markets of %s could not be loaded: %s", exchange_id, error)
            return None
        market = find_market(exchange, resolve_symbol(exchange, symbol, is_contract=is_contract))
        instrument = parse_instrument(market, mode=getattr(exchange, "precisionMode", 4))
    for source in (market, *_trading(getattr(exchange, "fees", None) or {}, is_contract=is_contract)):
        rates = source.get("maker"), source.get("taker")
        if None not in rates:
            return _model(*rates), instrument
    return None


def _trading(fees: Any, *, is_contract: bool) -> list[Mapping[str, Any]]:
    """Return the exchange's own fee tables, contracts' first where they are asked for."""
    linear = (fees.get("linear") or {}) if is_contract else {}
    return [table for table in (linear.get("trading"), fees.get("trading")) if table]


def _model(maker: Any, taker: Any) -> MakerTakerFeeModel:
    return MakerTakerFeeModel(parse_decimal(maker, "maker fee"), parse_decimal(taker, "taker fee"))


def _read(order: Order | Mapping[str, Any]) -> dict[str, Any]:
    fields = order if isinstance(order, Mapping) else msgspec.structs.asdict(order)
    if parse_decimal(fields.get("quantity"), "quantity") < 0:
        raise OrderValidationError(f"quantity: must be positive, got {fields['quantity']!r}; SELL is a side")
    return to_broker_order(fields)


def _intent(body: Mapping[str, Any]) -> OrderIntent:
    intent = parse_intent(body)
    # Stops are triggered here, by the one price there is; what is left of them is a market or limit order.
    kind = OrderType.MARKET if intent.limit_price is None else OrderType.LIMIT
    stop = intent.stop_price if body["type"] in _CONDITIONAL else None
    return msgspec.structs.replace(intent, type=kind, stop_price=stop)


def _adds_liquidity(body: Mapping[str, Any]) -> bool:
    said = body.get("adds_liquidity")
    if said is not None:
        return bool(said)
    return body["type"] not in _TAKERS and body.get("time_in_force") not in _AT_ONCE


def _positive(value: object, name: str) -> Decimal:
    number = parse_decimal(value, name)
    if number <= 0:
        raise ValueError(f"{name}: must be greater than 0, got {value!r}")
    return number
