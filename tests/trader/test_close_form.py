"""The close form on the engine against the bare loop on the same recorded candles."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from bench.bare_loop import Trade
from bench.bare_loop import run as run_bare
from qmtl.core.event import BarClosed, OrderFilled
from qmtl.core.order import OrderType, Side
from qmtl.trader.close_form import CloseForm, CloseFormParams
from tests.trader.candles import MINUTE_MS, closed_bars, read_candles
from tests.trader.desk import Desk


def trades_of(desk: Desk, rows: dict[int, int]) -> list[Trade]:
    fills = [event for event in desk.journal.events if isinstance(event, OrderFilled)]
    trades = []
    for opened, closed in zip(fills[::2], fills[1::2], strict=False):
        direction = 1 if opened.side is Side.BUY else -1
        profit = direction * (closed.price - opened.price) - opened.fee - closed.fee
        trades.append(
            Trade(
                rows[opened.ts_ms],
                rows[closed.ts_ms],
                direction,
                float(opened.price),
                float(closed.price),
                float(profit),
            )
        )
    return trades


@pytest.mark.recorded
def test_trades_and_profit_equal_the_bare_loop(recorded_file: Any) -> None:
    frame = read_candles(recorded_file)
    bars = closed_bars(frame)
    desk = Desk(CloseForm(), start_ms=bars[0].open_ms)
    desk.driver.run(bars)
    bare = run_bare(frame["close"].to_list())
    ours = trades_of(desk, {bar.ts_ms: row for row, bar in enumerate(bars)})
    assert len(bare) > 1_000
    assert [trade[:5] for trade in ours] == [trade[:5] for trade in bare]
    assert [trade.profit for trade in ours] == pytest.approx([trade.profit for trade in bare], abs=1e-6)
    wallet = desk.engine.account.equity() - Decimal(10_000)
    open_profit = Decimal(0) if not desk.held else desk.engine.account.unrealized()
    assert float(wallet - open_profit) == pytest.approx(sum(trade.profit for trade in bare), abs=50)
    assert {order.intent.type for order in desk.sent} == {OrderType.MARKET}
    assert len(desk.decisions) == len(bars)


def test_exits_close_exactly_the_position_and_reduce_only() -> None:
    desk = Desk(CloseForm(CloseFormParams(quantity=Decimal("0.25"))))
    desk.wave()
    desk.bar(60_200.0)
    desk.bar(59_000.0)
    assert [(o.intent.side, o.intent.quantity, o.intent.reduce_only) for o in desk.sent] == [
        (Side.BUY, Decimal("0.25"), False),
        (Side.SELL, Decimal("0.25"), True),
    ]
    assert desk.sent[1].intent.why == "stop"
    assert not desk.held


def test_no_entry_in_the_bar_of_an_exit_and_none_before_the_bands() -> None:
    desk = Desk(CloseForm())
    desk.bar(60_000.0)
    desk.bar(70_000.0)
    assert desk.sent == []
    assert desk.decisions[-1].reason == "warming_up"
    desk = Desk(CloseForm())
    desk.wave()
    desk.bar(60_200.0)
    desk.bar(59_000.0)
    assert len(desk.sent) == 2


@pytest.mark.recorded
def test_a_saved_close_form_goes_on_exactly(recorded_file: Any) -> None:
    bars = closed_bars(read_candles(recorded_file).head(3_000))
    whole, cut = Desk(CloseForm()), Desk(CloseForm())
    whole.driver.run(bars)
    for row in range(0, len(bars), 137):
        fresh = CloseForm.from_params({})
        fresh.load_state(msgspec.msgpack.decode(msgspec.msgpack.encode(cut.engine.strategy.dump_state())))
        cut.engine.strategy = fresh
        cut.driver.run(bars[row : row + 137])
    assert len(whole.sent) > 20
    assert cut.engine.state_hash() == whole.engine.state_hash()


def test_late_bars_are_folded_and_not_traded() -> None:
    desk, plain = Desk(CloseForm()), Desk(CloseForm())
    for made in (desk, plain):
        made.wave()
    desk.bar(60_200.0, refilled=True)
    plain.bar(60_200.0)
    assert desk.sent == []
    assert len(plain.sent) == 1
    late, now = (d.engine.strategy.dump_state() for d in (desk, plain))
    assert late["moments"] == now["moments"]
    assert late["closes"] == now["closes"]
    assert isinstance(desk.journal.events[-2], BarClosed)
    assert desk.at % MINUTE_MS == 0


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected 0 < inner <= outer, got 3\.0, 2\.0"):
        CloseForm(CloseFormParams(inner=3.0))
    with pytest.raises(msgspec.ValidationError, match="windw"):
        CloseForm.from_params({"windw": 3})


@pytest.mark.recorded
@pytest.mark.parametrize("count", [15, 20, 21, 61, 4_000])
def test_a_table_says_what_bars_say_one_by_one(recorded_file: Any, count: int) -> None:
    bars = closed_bars(read_candles(recorded_file))[:count]
    plain, prepared = CloseForm(), CloseForm()
    prepared.prepare(bars)
    desks = [Desk(strategy, start_ms=bars[0].open_ms) for strategy in (plain, prepared)]
    for desk in desks:
        desk.driver.run(bars)
    assert desks[0].journal.events == desks[1].journal.events
    assert desks[0].engine.state_hash() == desks[1].engine.state_hash()
    assert bool(desks[1].sent) == (count >= 61)


def test_a_table_takes_its_own_bars_only() -> None:
    desk = Desk(strategy := CloseForm())
    strategy.prepare([BarClosed(119_999, "BTCUSDT", 60_000, 1.0, 1.0, 1.0, 1.0, 1.0)])
    with pytest.raises(ValueError, match="is not row 0 of the history"):
        desk.bar(60_000.0)
