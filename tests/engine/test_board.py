"""What the board counts and shows of the events of one engine."""

from decimal import Decimal

from qmtl.core.event import OrderFilled
from qmtl.core.order import Side
from qmtl.engine.board import Board


def fill(trade_id: str) -> OrderFilled:
    return OrderFilled(1, "q1", trade_id, "BTCUSDT", Side.BUY, Decimal(1), Decimal(5), Decimal(0), "USDT")


def test_a_fill_told_twice_is_shown_once() -> None:
    """After every gap the venue tells the last minute again."""
    known: set[str] = set()
    board = Board(lambda told: told.trade_id in known)
    for trade_id in ("1", "2", "1", "2", "3"):
        board.on_event(fill(trade_id))
        known.add(trade_id)
    assert board.counts["fills"] == 3
    assert [told.trade_id for told in board.fills] == ["1", "2", "3"]
