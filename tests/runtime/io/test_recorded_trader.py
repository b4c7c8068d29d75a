"""The published trader's own logs: folding its fills gives what the venue stated (trader.md §7 item 1)."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from qmtl.core.account import Account
from qmtl.core.event import AccountUpdated, OrderAccepted, OrderCanceled, OrderFilled
from qmtl.runtime.io.binance_messages import BinanceMessageMapper, Message

Find = Callable[[str], Path]
LOGS = "recordings/trader_logs"
SEED = re.compile(r"(\d\d:\d\d:\d\d)\s+walletBalance:([\d.]+).*positionAmt:([-\d.]+)")
LINE = re.compile(r"time:(\d\d:\d\d:\d\d)\s+message:(\{.*\})")
# The venue's wallet keeps 8 decimals and cuts each realised profit to them.
CUT = Decimal("1E-8")


def read_messages(path: Path) -> Iterator[tuple[str, Message]]:
    mapper = BinanceMessageMapper()
    for line in path.read_text(encoding="utf-8").splitlines():
        match = LINE.search(line)
        if match is None:
            continue
        body = json.dumps(ast.literal_eval(match[2])).encode()
        for message in mapper.parse(body):
            yield match[1], message
    assert mapper.unknown == {}


def read_sessions(path: Path) -> list[tuple[str, Decimal]]:
    rows = [SEED.search(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    seeds = [(row[1], Decimal(row[2]), Decimal(row[3])) for row in rows if row is not None]
    assert all(position == 0 for _, _, position in seeds)
    return [(at, wallet) for at, wallet, _ in seeds]


@pytest.mark.recorded
def test_every_logged_message_is_an_event(recorded_file: Find) -> None:
    orders = [m for _, m in read_messages(recorded_file(f"{LOGS}/orderTradeUpdate_230224.txt"))]
    assert {type(m) for m in orders} == {OrderAccepted, OrderFilled, OrderCanceled}
    assert len(orders) == 44
    accounts = [m for _, m in read_messages(recorded_file(f"{LOGS}/AccountUpdate_230224.txt"))]
    assert {type(m) for m in accounts} == {AccountUpdated}
    assert len(accounts) == 22


@pytest.mark.recorded
def test_folded_fills_give_the_stated_wallet_and_position(recorded_file: Find) -> None:
    sessions = read_sessions(recorded_file(f"{LOGS}/accountInfo.txt"))
    fills = [
        (at, m)
        for at, m in read_messages(recorded_file(f"{LOGS}/orderTradeUpdate_230224.txt"))
        if isinstance(m, OrderFilled)
    ]
    stated = [m for _, m in read_messages(recorded_file(f"{LOGS}/AccountUpdate_230224.txt"))]
    assert len(fills) == len(stated) == 22
    seeded = 0
    account, closes = Account(), 0
    for (at, fill), update in zip(fills, stated, strict=True):
        assert isinstance(update, AccountUpdated)
        while seeded < len(sessions) and sessions[seeded][0] <= at:
            # A restart reads the account anew; what was closed by hand in between is in no log.
            account, closes = Account(), 0
            account.transfer(sessions[seeded][1])
            seeded += 1
        position = account.position(fill.symbol, fill.position_side)
        closes += bool(account.fill(position, fill.side, fill.quantity, fill.price, fill.fee, fill.ts_ms))
        account.check_conservation()
        (balance,), (held,) = update.balances, update.positions
        assert abs(account.wallet - balance.wallet) <= CUT * closes, at
        assert position.quantity == held.quantity, at
        assert abs(position.entry_price - held.entry_price) <= Decimal("0.00001"), at
    assert seeded == len(sessions)
