"""Frames of one read: the first at once, newer prices in place of older ones, everything else in order."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.io.frame_inbox import FrameInbox


def frame(name: str, number: int, *, is_closed: bool) -> bytes:
    closed = "true" if is_closed else "false"
    return f'{{"stream":"{name}","data":{{"e":"kline","E":{number},"k":{{"x":{closed}}}}}}}'.encode()


class Desk:
    """An inbox whose `call_soon` waits until the test lets the loop turn."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.soon: list[Callable[[], None]] = []
        self.inbox = FrameInbox(self.taken.append, self.soon.append)

    def turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for work in soon:
            work()


def test_a_lone_frame_is_taken_at_once() -> None:
    desk = Desk()
    for number in range(3):
        desk.inbox.put(frame("btc", number, is_closed=False))
        assert len(desk.taken) == number + 1
        desk.turn()
    assert desk.inbox.conflated == 0


def test_older_prices_of_one_read_are_dropped_and_counted() -> None:
    desk = Desk()
    rows = [frame("btc", number, is_closed=False) for number in range(5)]
    other = frame("eth", 9, is_closed=False)
    for row in (*rows[:3], other, *rows[3:]):
        desk.inbox.put(row)
    desk.turn()
    assert desk.taken == [rows[0], other, rows[4]]
    assert desk.inbox.conflated == 3


@given(st.lists(st.tuples(st.sampled_from(["btc", "eth"]), st.booleans(), st.booleans()), max_size=30))
def test_closed_candles_and_each_last_price_always_arrive_in_order(
    steps: list[tuple[str, bool, bool]],
) -> None:
    desk = Desk()
    sent: list[bytes] = []
    for number, (name, is_closed, pauses) in enumerate(steps):
        sent.append(frame(name, number, is_closed=is_closed))
        desk.inbox.put(sent[-1])
        if pauses:
            desk.turn()
    desk.turn()
    assert desk.taken == [row for row in sent if row in desk.taken]
    assert {row for row in sent if b'"x":true' in row} <= set(desk.taken)
    for name in ("btc", "eth"):
        last = [row for row in sent if row.startswith(f'{{"stream":"{name}"'.encode())][-1:]
        assert set(last) <= set(desk.taken)
    assert len(desk.taken) + desk.inbox.conflated == len(sent)
