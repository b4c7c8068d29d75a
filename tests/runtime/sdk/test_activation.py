"""The gate fails closed and knows closing orders (connectors.md §6, §10.32-35)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmtl.runtime.sdk import ActivationManager, FakeLiveDataFeed, WebSocketClient, runtime
from qmtl.runtime.sdk.brokerage.execution import ExecutionContext, running
from tests.runtime.fast_clock import FastClock
from tests.runtime.leap_clock import LeapClock
from tests.runtime.sdk.gateway_server import gateway
from tests.runtime.sdk.socket_server import say, serving, until

BUY = {"side": "BUY", "quantity": 1}
SELL = {"side": "SELL", "quantity": 1}
CLOSE = {**SELL, "reduce_only": True}
CANCEL = {"action": "cancel", "id": "7"}


@pytest.fixture(autouse=True)
def fresh(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    runtime.reload()
    yield
    monkeypatch.undo()
    runtime.reload()


def event(**payload: Any) -> dict[str, Any]:
    return {"event": "activation_updated", "data": {"version": 1, **payload}}


async def told(
    *payloads: dict[str, Any], **options: Any
) -> tuple[ActivationManager, FakeLiveDataFeed, LeapClock]:
    """A gate that follows world w by a feed in memory, and heard these updates."""
    clock, feed = LeapClock(), FakeLiveDataFeed()
    gate = ActivationManager(ws_client=feed, world_id="w", strategy_id="s", clock=clock, **options)
    await gate.start()
    for payload in payloads:
        assert await feed.emit(event(**payload))
    return gate, feed, clock


LONG_ONLY = ({"side": "long", "active": True, "weight": 0.5}, {"side": "short", "active": False})


async def test_before_the_first_update_everything_but_a_cancel_is_denied() -> None:
    gate, _, _ = await told()
    assert gate.is_stale()
    assert [gate.allow_order(order) for order in (BUY, CLOSE, CANCEL)] == [False, False, True]


async def test_sides_and_weights() -> None:
    gate, _, _ = await told(*LONG_ONLY)
    assert not gate.is_stale()
    assert [gate.allow_side(side) for side in ("buy", "LONG", "sell", "short", "hold")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (gate.weight_for_side("buy"), gate.weight_for_side("sell")) == (0.5, 0.0)


async def test_32_a_gate_that_raises_denies() -> None:
    gate, _, _ = await told({"active": True})
    assert gate.allow_order(BUY)
    for order in ({**BUY, "quantity": "much"}, {**SELL, "quantity": float("nan")}, {**BUY, "quantity": True}):
        assert not gate.allow_order(order, position=1)
    assert not gate.allow_order("BUY")
    assert not gate.allow_order({**BUY, "execution_domain": "moon"})
    assert "ValueError" in gate.explain({"quantity": 1})


@pytest.mark.parametrize("order", [{"quantity": 1}, {"side": None}, {"side": "hold"}, {"side": True}])
async def test_32_a_missing_or_unknown_side_is_denied(order: dict[str, Any]) -> None:
    gate, _, _ = await told({"active": True})
    assert not gate.allow_order(order)
    assert not gate.allow_order({**order, "reduce_only": True})


async def test_32_the_ttl_passes_and_an_open_stream_renews_it() -> None:
    gate, feed, clock = await told({"active": True})
    await clock.sleep(10_000)
    assert gate.allow_order(BUY)
    feed._state = feed._state.__class__.BACKOFF
    assert not gate.allow_order(BUY)
    await feed.start()
    await feed.emit(event(active=True))
    await feed.stop()
    assert gate.allow_order(BUY)
    await clock.sleep(29)
    assert gate.allow_order(BUY)
    await clock.sleep(2)
    assert gate.is_stale()
    assert not gate.allow_order(BUY)
    assert not gate.allow_order(CLOSE)
    assert gate.allow_order(CANCEL)


async def test_32_a_given_ttl_counts() -> None:
    gate, feed, clock = await told({"active": True}, ttl_s=5)
    await feed.stop()
    await clock.sleep(5)
    assert gate.allow_order(BUY)
    await clock.sleep(0.1)
    assert not gate.allow_order(BUY)


async def test_32_a_stopped_gate_denies_and_forgets() -> None:
    gate, feed, _ = await told({"active": True})
    await gate.stop()
    assert [gate.allow_order(order) for order in (BUY, CLOSE, CANCEL)] == [False, False, True]
    await gate.start()
    assert not gate.allow_order(BUY)
    await feed.emit(event(active=True))
    assert gate.allow_order(BUY)


async def test_32_a_subscription_that_fails_denies_until_it_succeeds() -> None:
    async with gateway() as server:
        server.statuses = {"subscribe": 500}
        gate = ActivationManager(server.url, world_id="w", strategy_id="s", clock=FastClock(100))
        await gate.start()
        assert "not subscribed" in gate.explain(BUY)
        assert gate.is_stale()
        assert not gate.allow_order(CLOSE)
        await until(lambda: server.subscriptions() >= 2)
        assert not gate.allow_order(BUY)
        server.statuses = {}
        await until(lambda: gate.allow_order(BUY))
        await until(lambda: server.sockets)
        await gate.stop()
        assert not gate.allow_order(BUY)


async def test_33_a_long_only_world() -> None:
    gate, _, _ = await told(*LONG_ONLY)
    assert gate.allow_order(CLOSE)
    assert gate.allow_order(SELL, position=1)
    assert not gate.allow_order({**SELL, "quantity": 2}, position=1)
    assert not gate.allow_order(SELL)
    assert gate.allow_order(SELL, is_spot=True)
    assert gate.allow_order({**SELL, "position_side": "LONG"})
    assert gate.allow_order(BUY)


@pytest.mark.parametrize("side", ["long", "short"])
async def test_34_drain_lets_closing_pass_and_freeze_only_cancels(side: str) -> None:
    gate, feed, _ = await told({"active": True})
    await feed.emit(event(side=side, active=True, drain=True))
    assert [gate.allow_order(order) for order in (BUY, SELL, CLOSE, CANCEL)] == [False, False, True, True]
    assert gate.weight_for_side("buy") == 0
    await feed.emit(event(side=side, active=True, freeze=True))
    assert [gate.allow_order(order) for order in (BUY, SELL, CLOSE, CANCEL)] == [False, False, False, True]
    await feed.emit(event(freeze=False, drain=False))
    assert gate.allow_order(BUY)


async def test_35_foreign_worlds_and_strategies_are_ignored() -> None:
    gate, feed, _ = await told({"world_id": "other", "active": True}, {"strategy_id": "x", "active": True})
    assert not gate.allow_order({**BUY, "execution_domain": "live"})
    await feed.emit(event(world_id="w", strategy_id="s", active=True))
    await feed.emit(event(world_id="other", active=False))
    assert gate.allow_order({**BUY, "execution_domain": "live"})


async def test_35_flags_that_are_no_booleans_deny() -> None:
    gate, feed, _ = await told({"active": True, "effective_mode": "live"})
    await feed.emit(event(active="false"))
    assert gate.is_stale()
    assert not gate.allow_order({**BUY, "execution_domain": "live"})


async def test_35_a_lower_sequence_is_discarded() -> None:
    gate, feed, _ = await told({"active": False, "sequence": 5})
    await feed.emit(event(active=True, sequence=4))
    assert not gate.allow_order({**BUY, "execution_domain": "live"})
    await feed.emit(event(active=True, sequence=5))
    assert not gate.allow_order({**BUY, "execution_domain": "live"})
    await feed.emit(event(active=True, sequence=6))
    assert gate.allow_order({**BUY, "execution_domain": "live"})


@pytest.mark.parametrize(
    ("mode", "domain", "passes"),
    [
        ("validate", "live", False),
        ("compute-only", "live", False),
        ("paper", "live", False),
        ("live", "live", True),
        ("something", "live", False),
        ("simulate", "dryrun", True),
        ("paper", "dryrun", True),
        ("paper", "paper", True),
        ("live", "dryrun", False),
        ("validate", "backtest", True),
        ("shadow", "shadow", True),
        ("live", None, True),
    ],
)
async def test_35_the_mode_must_be_of_the_orders_domain(mode: str, domain: str | None, passes: bool) -> None:
    gate, _, _ = await told({"active": True, "effective_mode": mode})
    assert gate.allow_order({**BUY, "execution_domain": domain}) is passes
    assert gate.allow_order({**CLOSE, "execution_domain": domain}) is passes
    assert gate.allow_order(BUY, domain=domain) is passes
    with running(ExecutionContext(None if domain == "paper" else domain)):
        assert gate.allow_order(BUY) is (passes or domain is None)


async def test_35_the_configured_domain_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, _, _ = await told({"active": True, "effective_mode": "validate"})
    assert gate.allow_side("buy")
    monkeypatch.setenv("QMTL_CONNECTORS__EXECUTION_DOMAIN", "live")
    runtime.reload()
    assert not gate.allow_side("buy")


async def test_the_gateway_is_asked_and_its_stream_followed() -> None:
    async with gateway() as server:
        gate = ActivationManager(
            server.url, world_id="w", strategy_id="s", token="gateway-token", clock=FastClock(1)
        )
        await gate.start()
        await gate.start()
        assert (gate.allow_side("buy"), gate.weight_for_side("buy"), gate.allow_side("sell")) == (
            True,
            0.5,
            False,
        )
        assert server.tokens == ["Bearer gateway-token"] * 2
        assert server.calls[0] == "/worlds/w/activation?strategy_id=s&side=long"
        await until(lambda: server.sockets)
        await server.tell(side="long", active=False, sequence=2)
        await until(lambda: not gate.allow_side("buy"))
        await gate.stop()
        assert server.subscriptions() == 1
        assert len(server.stream_tokens) == 1


async def test_equal_sequences_from_the_gateway_renew_and_lower_ones_deny() -> None:
    async with gateway() as server:
        gate = ActivationManager(server.url, world_id="w", strategy_id="s", clock=FastClock(50))
        await gate.start()
        await until(lambda: len(server.tokens) >= 12)
        await until(lambda: gate.allow_order(BUY))
        server.activation["short"]["sequence"] = 0
        await until(lambda: "no sense" in gate.explain(BUY))
        assert gate.is_stale()
        server.activation["short"]["sequence"] = 2
        await until(lambda: gate.allow_order(BUY))
        server.statuses["activation"] = 503
        await until(lambda: "no word" in gate.explain(BUY))
        assert gate.is_stale()
        await gate.stop()


async def test_the_streams_token_is_asked_anew_before_it_expires_and_at_a_reconnect() -> None:
    async with gateway() as server:
        clock = FastClock(40)
        server.token_life_s = 50
        gate = ActivationManager(server.url, world_id="w", strategy_id="s", clock=clock)
        await gate.start()
        await until(lambda: server.sockets)
        server.token_life_s = 10_000
        await until(lambda: server.refreshed)
        assert server.refreshed[0]["type"] == "refresh"
        await server.sockets[0].close()
        await until(lambda: len(server.sockets) == 2)
        await gate.stop()
        assert len(set(server.stream_tokens)) == 2


async def test_a_real_client_can_be_brought_along_with_its_own_handler() -> None:
    seen: list[Any] = []
    updates = [event(side="long", active=True), {"event": "queue_update", "data": {"version": 1}}]
    async with serving(say(*updates)) as server:
        client = WebSocketClient(server.url, on_message=seen.append)
        gate = ActivationManager(ws_client=client, world_id="w")
        await gate.start()
        await until(lambda: len(seen) == 2)
        assert gate.allow_side("buy")
        await gate.stop()
        assert client.state == "stopped"


def test_a_gateway_without_a_world_is_refused() -> None:
    with pytest.raises(ValueError, match="world_id: "):
        ActivationManager("http://127.0.0.1:1")
