"""What the user stream tells adds up to what the account holds, whatever is traded."""

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.instrument import list_instrument
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, OrderType, Side, TimeInForce
from qmtl.services.paper_exchange.accounts import PaperAccount
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.settings import PaperExchangeConfig

BTC = list_instrument("BTCUSDT", 2, 3)
WALLET = Decimal(3_000)
"""Little enough that bad trades are liquidated."""
REFUSALS = {-2019, -2021, -4116, -4130, -4164, -2027}
SIDES = st.sampled_from([Side.BUY, Side.SELL])
SIZES = st.integers(2, 900).map(lambda lots: Decimal(lots) / 1_000)
ACTIONS = st.one_of(
    st.tuples(st.just("market"), SIDES, SIZES),
    st.tuples(st.just("limit"), SIDES, SIZES, st.integers(-300, 300)),
    st.tuples(st.just("stop"), SIDES, SIZES, st.integers(1, 300)),
    st.tuples(st.just("close"), SIDES),
    st.tuples(st.just("move"), st.integers(-3_000, 3_000)),
    st.tuples(st.just("fund"), st.integers(-30, 30)),
    st.tuples(st.just("cancel")),
)


class Desk:
    """An account moved by actions; everything it tells is kept."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        config = PaperExchangeConfig(balance=WALLET)
        self.account = PaperAccount(
            "k", "s", config=config, instruments={"BTCUSDT": BTC}, send=self.told.append
        )
        self.price = 50_000
        self.now_ms = 1_000
        self.number = 0
        self.move(0)

    def move(self, change: int) -> None:
        self.price = max(1_000, self.price + change)
        core, now = self.account.core, self.now_ms
        self.account.fold(core.on_price("BTCUSDT", self.price, now, Decimal("0.5")), now)
        self.account.fold(core.on_mark("BTCUSDT", self.price, now), now)
        self.account.check_triggers(now)

    def act(self, kind: str, *given: Any) -> None:
        self.now_ms += 1_000
        self.number += 1
        name = f"n{self.number}"
        if kind == "move":
            self.move(given[0])
        elif kind == "fund":
            rate = Decimal(given[0]) / 10_000
            self.account.fold(self.account.core.on_funding("BTCUSDT", rate, self.now_ms), self.now_ms)
        elif kind == "cancel":
            for record in self.account.open_orders():
                self.account.cancel(record, self.now_ms)
        elif kind in {"stop", "close"}:
            side = given[0]
            away = Decimal(given[2] if kind == "stop" else 200)
            trigger = self.price + away if side is Side.BUY else self.price - away
            size = given[1] if kind == "stop" else ZERO
            intent = OrderIntent(symbol="BTCUSDT", side=side, quantity=size, type=OrderType.STOP_MARKET,
                                 stop_price=trigger, close_position=kind == "close")  # fmt: skip
            self.account.place_algo(intent, name, self.now_ms, is_protected=False)
        else:
            limit = Decimal(self.price + given[2]) if kind == "limit" else None
            intent = OrderIntent(symbol="BTCUSDT", side=given[0], quantity=given[1], limit_price=limit,
                                 type=OrderType.LIMIT if limit else OrderType.MARKET,
                                 time_in_force=TimeInForce.GTC if limit else None)  # fmt: skip
            self.account.place(intent, name, self.now_ms)


@given(st.lists(ACTIONS, max_size=40))
def test_news_and_books_agree(actions: list[tuple[Any, ...]]) -> None:
    desk = Desk()
    for action in actions:
        try:
            desk.act(*action)
        except VenueError as refused:
            if refused.code not in REFUSALS:
                raise
    account, core = desk.account, desk.account.core
    position = core.account.position("BTCUSDT")
    assert account.ledger.wallet == core.account.wallet
    assert account.ledger.position("BTCUSDT", position.side).quantity == position.quantity
    fills = [m["o"] for m in desk.told if m["e"] == "ORDER_TRADE_UPDATE" and m["o"]["t"]]
    signed = [Decimal(o["l"]) if o["S"] == "BUY" else -Decimal(o["l"]) for o in fills]
    assert sum(signed, ZERO) == position.quantity
    assert len({o["t"] for o in fills}) == len(fills) == len(account.fills)
    updates = [m["a"] for m in desk.told if m["e"] == "ACCOUNT_UPDATE"]
    if updates:
        assert abs(Decimal(updates[-1]["B"][0]["wb"]) - core.account.wallet) <= Decimal("1E-8")
    moved = sum((income.amount for income in account.ledger.incomes), ZERO)
    assert WALLET + moved == core.account.wallet


@given(st.lists(ACTIONS, max_size=40))
def test_every_order_ends_as_its_last_news_says(actions: list[tuple[Any, ...]]) -> None:
    desk = Desk()
    for action in actions:
        try:
            desk.act(*action)
        except VenueError:
            continue
    last: dict[int, str] = {}
    filled: dict[int, Decimal] = {}
    for message in desk.told:
        if message["e"] == "ORDER_TRADE_UPDATE":
            order = message["o"]
            assert last.get(order["i"]) not in {"FILLED", "CANCELED", "EXPIRED"}
            last[order["i"]] = order["X"]
            filled[order["i"]] = filled.get(order["i"], ZERO) + Decimal(order["l"])
    records = desk.account.orders
    assert last == {number: record.status for number, record in records.items()}
    assert filled == {number: record.executed for number, record in records.items()}
    working = {order.client_order_id for order in desk.account.core.open_orders()}
    waiting = {str(record.order_id) for record in desk.account.open_orders()}
    waiting |= {str(record.order_id) for record in desk.account.open_algos()}
    assert working == waiting
