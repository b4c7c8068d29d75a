"""What moves cash and position at the simulated venue: fills, funding, transfers, liquidation."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from qmtl.core.account import Account
from qmtl.core.event import AnyEvent, FundingPaid, OrderCanceled, OrderFilled, Transferred
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, PositionSide, Side
from qmtl.core.position import Position
from qmtl.engine.margin import MarginBook
from qmtl.engine.market_book import MarketBook, open_part
from qmtl.engine.order_filter import BALANCE, MARGIN, MAX_NOTIONAL
from qmtl.engine.venue_models import VenueModels
from qmtl.engine.working_order import WorkingOrder

LIQUIDATION_PREFIX = "autoclose-"
"""Client order ids of liquidation fills start with this, as Binance's do; nobody submitted them."""

_BUY, _SELL = Side.BUY, Side.SELL
_BOTH = PositionSide.BOTH
_MONEY_STEP = Decimal("1E-8")


class Settlement:
    """Books everything into one account and checks conservation after each movement."""

    def __init__(
        self,
        account: Account,
        books: Mapping[str, MarketBook],
        margin: MarginBook,
        models: VenueModels,
        *,
        first_trade_id: int = 1,
    ) -> None:
        self.account = account
        self.books = books
        self.margin = margin
        self.models = models
        self._fee = models.fees.fee
        self._next_trade_id = first_trade_id
        self._book_of: dict[str, MarketBook] = {}
        self.order_count = 0

    def forget_bands(self, book: MarketBook) -> None:
        """Have liquidation bands that this book's position or the wallet enters computed anew."""
        if book.is_band_known:
            book.forget_band()
        if self.margin.has_cross:
            for other in self.books.values():
                other.forget_band()

    def fill(
        self,
        book: MarketBook,
        client_order_id: str,
        venue_order_id: str,
        intent: OrderIntent,
        quantity: Decimal,
        price: Decimal,
        ts_ms: int,
        *,
        is_maker: bool,
    ) -> OrderFilled:
        """Book one fill and return it."""
        account = self.account
        side = intent.side
        fee = self._fee(quantity * price, is_maker=is_maker)
        position = book.position(intent.position_side)
        account.fill(position, side, quantity, price, fee, ts_ms)
        account.check_conservation()
        if self.margin.added and not position.quantity:
            self.margin.added.pop((book.symbol, position.side), None)
        self.forget_bands(book)
        if book.available is not None:
            book.available -= quantity
        trade_id = self._next_trade_id
        self._next_trade_id = trade_id + 1
        return OrderFilled(
            ts_ms,
            client_order_id,
            str(trade_id),
            book.symbol,
            side,
            quantity,
            price,
            fee,
            account.asset,
            is_maker,
            intent.position_side,
            venue_order_id,
        )

    def transfer(self, amount: Decimal, ts_ms: int, transfer_id: str = "") -> Transferred:
        """Book money moved in (positive) or out."""
        self.account.transfer(amount)
        self.account.check_conservation()
        for book in self.books.values():
            book.forget_band()
        return Transferred(ts_ms, self.account.asset, amount, transfer_id)

    def fund(self, book: MarketBook, rate: Decimal, mark: Decimal, ts_ms: int) -> list[AnyEvent]:
        """Pay funding on the open positions of a market: signed quantity x mark x rate, longs pay."""
        events: list[AnyEvent] = []
        for position in self.margin.open_positions(book.symbol):
            amount = -(position.quantity * mark * rate).quantize(_MONEY_STEP, ROUND_HALF_UP)
            self.account.pay_funding(amount)
            self.account.check_conservation()
            side = "" if position.side is _BOTH else f":{position.side}"
            events.append(FundingPaid(ts_ms, book.symbol, amount, f"{book.symbol}{side}@{ts_ms}"))
        if events:
            self.forget_bands(book)
        return events

    # --- margin -----------------------------------------------------------------------------------

    def order_margin(self) -> Decimal:
        """Return what open orders tie up: per symbol the dearer side of what they would open.

        In hedge mode both sides count. Waiting conditional orders tie up nothing.
        """
        total = ZERO
        if self.order_count == 0:
            return total
        for book in self.books.values():
            if book.orders:
                total += self._book_margin(book)
        return total

    def _book_margin(self, book: MarketBook) -> Decimal:
        mode = self.margin.modes[book.symbol]
        if mode == "none":
            return ZERO
        net = book.position(_BOTH).quantity
        values = {True: ZERO, False: ZERO}
        cover = {True: max(-net, ZERO), False: max(net, ZERO)}
        is_hedged = False
        for order in book.orders.values():
            if order.reduces or order.is_waiting:
                continue
            is_hedged = is_hedged or order.intent.position_side is not _BOTH
            closing = min(cover[order.is_buy], order.remaining)
            cover[order.is_buy] -= closing
            values[order.is_buy] += (order.remaining - closing) * order.reserved_price
        if mode == "cash":
            return values[True]
        larger = values[True] + values[False] if is_hedged else max(values.values())
        return larger / self.margin.leverages[book.symbol]

    def available(self) -> Decimal:
        """Return the balance free for new orders."""
        return self.margin.available() - self.order_margin()

    def find_shortage(
        self, book: MarketBook, intent: OrderIntent, quantity: Decimal, price: Decimal
    ) -> str | None:
        """Return why the account cannot carry `quantity` more at `price`, or None.

        A part that closes frees its margin (isolated: and realises its profit) for the part that opens.
        """
        margin = self.margin
        mode = margin.modes[book.symbol]
        if mode == "none":
            return None
        position = book.position(intent.position_side)
        held = position.quantity
        is_buy = intent.side is _BUY
        if mode == "cash" and not is_buy:
            reserved = sum((o.remaining for o in book.orders.values() if not o.is_buy), ZERO)
            return BALANCE if quantity > held - reserved else None
        opening = open_part(held, quantity, is_buy=is_buy)
        if not opening:
            return None
        free = margin.available()
        if self.order_count:
            free -= self.order_margin()
        value = opening * price
        if mode == "cash":
            return BALANCE if value + self._fee(value, is_maker=False) > free else None
        if not held:
            after = value
        elif opening == quantity:
            after = value + abs(held) * price
        else:
            after = value
            free += margin.initial(position)
            if mode == "isolated":
                free += margin.unrealized(position)
        if after > margin.caps[book.symbol]:
            return MAX_NOTIONAL
        return MARGIN if value > free * margin.leverages[book.symbol] else None

    # --- liquidation ------------------------------------------------------------------------------

    def liquidate(self, doomed: list[Position], at: dict[str, Decimal], ts_ms: int) -> list[AnyEvent]:
        """Close positions at `at` (by symbol; else the mark) with the liquidation fee.

        Orders of their symbols are cancelled first. The fill is at the mark, rounded to the tick
        against the account; a loss beyond the margin is refunded as a transfer, as the venue's
        insurance fund does, so that an isolated position loses its margin and no more.
        """
        events: list[AnyEvent] = []
        for position in doomed:
            book = self.books[position.symbol]
            for order in list(book.orders.values()):
                self.drop(book, order)
                events.append(
                    OrderCanceled(ts_ms, order.client_order_id, "liquidation", order.venue_order_id)
                )
        for position in doomed:
            self._close_out(self.books[position.symbol], position, at.get(position.symbol), ts_ms, events)
        return events

    def _close_out(
        self, book: MarketBook, position: Position, at: Decimal | None, ts_ms: int, events: list[AnyEvent]
    ) -> None:
        margin, account = self.margin, self.account
        mark = at or book.mark_price() or position.entry_price
        is_long = position.quantity > 0
        tick = book.instrument.floor_price(mark) if is_long else book.instrument.ceil_price(mark)
        price = max(tick, book.instrument.tick_size)
        profit = position.unrealized(price)
        if margin.modes[book.symbol] == "isolated":
            left = margin.initial(position) + profit
        else:
            left = account.wallet - self._isolated_total() + profit
        quantity = abs(position.quantity)
        fee = self.models.liquidation_fee.fee(quantity * price, left)
        side = _SELL if is_long else _BUY
        account.fill(position, side, quantity, price, fee, ts_ms)
        account.check_conservation()
        margin.added.pop((book.symbol, position.side), None)
        trade_id = str(self._next_trade_id)
        self._next_trade_id += 1
        cid = f"{LIQUIDATION_PREFIX}{ts_ms}-{trade_id}"
        events.append(
            OrderFilled(
                ts_ms,
                cid,
                trade_id,
                book.symbol,
                side,
                quantity,
                price,
                fee,
                account.asset,
                False,
                position.side,
            )
        )
        if left < 0:
            refund = (-left).quantize(_MONEY_STEP, ROUND_HALF_UP)
            events.append(self.transfer(refund, ts_ms, f"insurance-{trade_id}"))
        self.forget_bands(book)

    def _isolated_total(self) -> Decimal:
        return sum((self.margin.initial(p) for p in self.margin.open_positions(mode="isolated")), ZERO)

    # --- the index of open orders -----------------------------------------------------------------

    def keep(self, book: MarketBook, order: WorkingOrder) -> None:
        """Put an order on its book."""
        if order.client_order_id not in self._book_of:
            self._book_of[order.client_order_id] = book
            self.order_count += 1
        book.rest(order)

    def drop(self, book: MarketBook, order: WorkingOrder) -> None:
        """Take an order off its book, where it is on it."""
        if self._book_of.pop(order.client_order_id, None) is not None:
            self.order_count -= 1
            book.drop(order)

    def find_book(self, client_order_id: str) -> MarketBook | None:
        """Return the book that holds an open order."""
        return self._book_of.get(client_order_id)
