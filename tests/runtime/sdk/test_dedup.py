"""Keys of orders, and how long and how many are remembered."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.sdk.dedup import CAPACITY, LIFETIME_S, OrderDedup, dedup_key

BASE: Mapping[str, Any] = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 1, "timestamp": 60}


def key(**changes: Any) -> Any:
    return dedup_key({**BASE, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "ETH/USDT"},
        {"side": "SELL"},
        {"quantity": 2},
        {"type": "limit"},
        {"limit_price": 1.0},
        {"stop_price": 1.0},
        {"time_in_force": "IOC"},
        {"position_side": "LONG"},
        {"reduce_only": True},
        {"timestamp": 61},
        {"world_id": "w"},
        {"strategy_id": "s"},
        {"client_order_id": "a"},
    ],
)
def test_every_field_of_the_hash_tells_orders_apart(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_spellings_are_one_key() -> None:
    assert key(side="buy", quantity=None, amount=Decimal("1.0")) == key()
    assert key(price=5, tif="ioc") == key(limit_price=5.0, time_in_force="IOC")
    assert key(newClientOrderId="a", quantity=9) == key(clientOrderId="a") == ("a",)
    assert dedup_key({"side": "BUY", "quantity": 1}) is None
    assert key(quantity=[1]) == key(quantity=[1]), "what is no number is a key all the same"


def test_a_key_lives_ten_minutes() -> None:
    dedup = OrderDedup()
    assert dedup.reserve(("a",), 0.0)
    assert not dedup.reserve(("a",), LIFETIME_S * 1000 - 1)
    assert dedup.reserve(("a",), LIFETIME_S * 1000)
    dedup.release(("a",))
    assert dedup.reserve(("a",), LIFETIME_S * 1000)


def test_the_oldest_of_ten_thousand_keys_goes() -> None:
    dedup = OrderDedup()
    for k in range(CAPACITY + 1):
        assert dedup.reserve((k,), float(k))
    assert len(dedup._since_ms) == CAPACITY
    assert dedup.reserve((0,), float(CAPACITY))
    assert not dedup.reserve((2,), float(CAPACITY))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400_000)), max_size=60))
def test_it_agrees_with_a_plain_memory(steps: list[tuple[int, int]]) -> None:
    dedup, kept, now_ms = OrderDedup(), dict[int, int](), 0
    for name, pause_ms in steps:
        now_ms += pause_ms
        is_free = name not in kept or now_ms - kept[name] >= LIFETIME_S * 1000
        assert dedup.reserve((name,), float(now_ms)) is is_free
        if is_free:
            kept[name] = now_ms
