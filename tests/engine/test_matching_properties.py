"""Whatever is sent and wherever price goes: money is conserved and no order does what it must not."""

from collections.abc import Mapping, Sequence
from decimal import Decimal as D
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.account import Account
from qmtl.core.event import AnyEvent, FundingPaid, OrderFilled, Transferred
from qmtl.core.order import Order, OrderType, PositionSide, Side, TimeInForce, WorkingType
from qmtl.engine.candle_path import CandlePath
from qmtl.engine.matching import MatchingCore
from qmtl.engine.settlement import LIQUIDATION_PREFIX
from qmtl.engine.venue_models import CandleShare, TickSlippage, UnlimitedLiquidity, VenueModels
from tests.engine.market import make_bar, make_core, make_order

PRICES = st.integers(800, 1200).map(lambda tenths: tenths / 10)
NEAR = st.integers(850, 1150).map(lambda tenths: D(tenths) / 10)
QUANTITIES = st.integers(1, 40_000).map(lambda lots: f"{lots / 1000:.3f}")
ORDERS = st.fixed_dictionaries(
    {
        "side": st.sampled_from(["BUY", "SELL"]),
        "quantity": QUANTITIES,
        "kind": st.sampled_from(
            ["MARKET", "MARKET", "LIMIT", "LIMIT", *map(str, OrderType)],
        ),
        "limit_price": NEAR,
        "stop_price": NEAR,
        "reduce_only": st.booleans(),
        "time_in_force": st.sampled_from([*TimeInForce, None]),
        "position_side": st.sampled_from([PositionSide.LONG, PositionSide.SHORT]),
        "working_type": st.sampled_from(list(WorkingType)),
        "close_position": st.sampled_from([False, False, False, True]),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("submit"), ORDERS),
    st.tuples(st.just("submit"), ORDERS),
    st.tuples(st.just("price"), PRICES, st.sampled_from([None, D(0), D("0.5"), D(20)])),
    st.tuples(st.just("bar"), st.tuples(PRICES, PRICES, PRICES, PRICES), st.integers(0, 40)),
    st.tuples(st.just("mark"), PRICES),
    st.tuples(st.just("funding"), st.integers(-300, 300)),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
)
MODELS = st.builds(
    VenueModels,
    slippage=st.sampled_from([TickSlippage(0), TickSlippage(3)]),
    liquidity=st.sampled_from([UnlimitedLiquidity(), CandleShare()]),
    path=st.sampled_from(list(CandlePath)),
    limit_fill=st.sampled_from(["touch", "through"]),
    stops_first=st.booleans(),
)


def build(number: int, given_fields: Mapping[str, Any], *, hedged: bool) -> Order:
    fields = dict(given_fields)
    kind = fields["kind"]
    if kind not in {"LIMIT", "STOP", "TAKE_PROFIT"}:
        fields["limit_price"] = None
        fields["time_in_force"] = None
    if kind in {"MARKET", "LIMIT", "TRAILING_STOP_MARKET"}:
        fields["stop_price"] = None
    fields["close_position"] = fields["close_position"] and kind in {"STOP_MARKET", "TAKE_PROFIT_MARKET"}
    if kind == "TRAILING_STOP_MARKET":
        fields["callback_rate"] = D(1)
    if fields["time_in_force"] is TimeInForce.GTD:
        fields["expire_ms"] = 40 * 60_000
    if hedged:
        fields["reduce_only"] = False
    else:
        fields["position_side"] = PositionSide.BOTH
    return make_order(f"o{number}", fields.pop("side"), fields.pop("quantity"), **fields)


class Watcher:
    """Folds the events alone and compares what they say with what the orders allow."""

    def __init__(self, account: Account) -> None:
        self.account = Account(wallet=account.wallet, flow=account.flow)
        self.orders: dict[str, Order] = {}
        self.filled: dict[str, D] = {}

    def take(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            if isinstance(event, OrderFilled):
                self.take_fill(event)
            elif isinstance(event, FundingPaid):
                self.account.pay_funding(event.amount)
            elif isinstance(event, Transferred):
                self.account.transfer(event.amount)

    def take_fill(self, fill: OrderFilled) -> None:
        position = self.account.position(fill.symbol, fill.position_side)
        before = position.quantity
        self.account.fill(position, fill.side, fill.quantity, fill.price, fill.fee, fill.ts_ms)
        assert fill.quantity > 0
        assert fill.price > 0
        if fill.client_order_id.startswith(LIQUIDATION_PREFIX):
            assert position.is_flat
            return
        intent = self.orders[fill.client_order_id].intent
        total = self.filled[fill.client_order_id] = (
            self.filled.get(fill.client_order_id, D(0)) + fill.quantity
        )
        if not intent.close_position:
            assert total <= intent.quantity
        if intent.limit_price is not None:
            is_buy = intent.side is Side.BUY
            assert fill.price <= intent.limit_price if is_buy else fill.price >= intent.limit_price
        if intent.reduce_only or intent.close_position:
            assert abs(position.quantity) < abs(before)
            assert position.quantity * before >= 0
        if intent.position_side is not PositionSide.BOTH:
            assert position.quantity * (1 if intent.position_side is PositionSide.LONG else -1) >= 0
        if intent.time_in_force is TimeInForce.GTX:
            assert fill.is_maker

    def judge(self, core: MatchingCore) -> None:
        core.account.check_conservation()
        assert self.account.wallet == core.account.wallet
        held = {key: p.quantity for key, p in self.account.positions.items() if p.quantity}
        assert held == {key: p.quantity for key, p in core.account.positions.items() if p.quantity}
        open_ids = {order.client_order_id for order in core.open_orders()}
        assert core.settlement.order_count == len(open_ids)
        for cid, order in self.orders.items():
            if order.intent.time_in_force is TimeInForce.FOK and cid not in open_ids:
                assert self.filled.get(cid, 0) in (0, order.intent.quantity)


def act(
    core: MatchingCore, watcher: Watcher, number: int, step: tuple[Any, ...], *, hedged: bool
) -> list[AnyEvent]:
    ts_ms = (number + 1) * 60_000
    match step:
        case ("submit", fields):
            order = build(number, fields, hedged=hedged)
            watcher.orders[order.client_order_id] = order
            return core.submit(order, ts_ms, waits=number % 5 == 0)
        case ("price", price, available):
            return core.on_price("BTCUSDT", price, ts_ms, available)
        case ("bar", (a, b, c, d), volume):
            bar = make_bar(number, (a, max(a, b, c, d), min(a, b, c, d), d), volume=float(volume))
            return core.on_bar("BTCUSDT", bar, ts_ms)
        case ("mark", price):
            return core.on_mark("BTCUSDT", price, ts_ms)
        case ("funding", rate):
            return core.on_funding("BTCUSDT", D(rate) / 100_000, ts_ms)
        case ("cancel", which):
            return core.cancel(f"o{which}", ts_ms)
    raise AssertionError(step)


@given(
    steps=st.lists(STEPS, min_size=1, max_size=40),
    models=MODELS,
    hedged=st.booleans(),
    mode=st.sampled_from(["isolated", "cross"]),
    leverage=st.sampled_from([1, 5, 50]),
    wallet=st.sampled_from([D(200), D(10_000)]),
)
def test_money_is_conserved_and_orders_keep_their_promises(
    steps: list[tuple[Any, ...]], models: VenueModels, hedged: bool, mode: str, leverage: int, wallet: D
) -> None:
    core = make_core(
        models, hedge_mode=hedged, margin_mode=mode, leverage=leverage, first_wallet=wallet, price=100.0
    )
    watcher = Watcher(core.account)
    for number, step in enumerate(steps):
        watcher.take(act(core, watcher, number, step, hedged=hedged))
        watcher.judge(core)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), ORDERS),
            st.tuples(st.just("price"), PRICES, st.sampled_from([None, D(5)])),
            st.tuples(st.just("bar"), st.tuples(PRICES, PRICES, PRICES, PRICES), st.integers(0, 40)),
        ),
        min_size=2,
        max_size=30,
    ),
    models=MODELS,
)
def test_skipping_calm_prices_changes_nothing(steps: list[tuple[Any, ...]], models: VenueModels) -> None:
    """The early way out is an optimisation: a core that never takes it says the same."""
    quick, slow = (make_core(models, leverage=20) for _ in range(2))
    for number, step in enumerate(steps):
        for book in slow.books.values():
            book.forget_band()
        answers = [act(core, Watcher(core.account), number, step, hedged=False) for core in (quick, slow)]
        assert answers[0] == answers[1]
