"""Every message reaches the handler once, in order, whatever it does (connectors.md §4, §10.39, 41)."""

import asyncio
from typing import Any

import pytest

from qmtl.runtime.sdk import feed as feed_module
from tests.runtime.sdk.feed_log import make
from tests.runtime.sdk.socket_server import deaf, say, serving, until


async def test_39_a_raising_handler_gets_the_next_message_on_the_same_connection() -> None:
    seen = []

    async def on_message(message: dict[str, Any]) -> None:
        seen.append(message["n"])
        if message["n"] == 1:
            raise RuntimeError("the author's mistake")

    async with serving(say({"n": 1}, {"n": 2})) as server:
        feed, log = make(server.url, on_message=on_message)
        await feed.start()
        await until(lambda: len(seen) == 2)
        await asyncio.sleep(0.02)
        await feed.stop()
        assert server.connects == 1
    assert seen == [1, 2]
    assert feed.counts.handler_errors == 1
    assert log.states == ["connecting", "open", "stopped"]


async def test_41_versions_and_event_names() -> None:
    messages = [
        {"event": "tick", "price": 1},
        {"event": "tick", "data": {"version": 2, "price": 2}},
        {"type": "tick", "version": 1, "price": 3},
        {"event": "tick", "version": 2, "data": {"price": 4}},
        {"event": "tick", "data": [5]},
    ]
    async with serving(say(*messages)) as server:
        feed, log = make(server.url)
        await feed.start()
        await until(lambda: len(log.messages) == 4)
        await feed.stop()
    assert log.messages == [messages[0], *messages[2:]]
    assert feed.counts.wrong_version == 1
    async with serving(say(*messages)) as server:
        feed, log = make(server.url, event_version=None)
        await feed.start()
        await until(lambda: len(log.messages) == 5)
        await feed.stop()
    assert log.messages == messages


async def test_what_is_no_object_is_counted_and_dropped() -> None:
    async with serving(say("[1]", "not json", "7", "{", {"n": 1})) as server:
        feed, log = make(server.url)
        await feed.start()
        await until(lambda: log.messages)
        await feed.stop()
        assert server.connects == 1
    assert log.messages == [{"n": 1}]
    assert feed.counts.not_objects == 4


async def test_an_overflowing_queue_makes_the_connection_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_WAITING", 10)
    release = asyncio.Event()
    seen = []

    async def on_message(message: dict[str, Any]) -> None:
        await release.wait()
        seen.append(message["n"])

    async with serving(say(*[{"n": n} for n in range(20)]), say({"n": 99})) as server:
        feed, log = make(server.url, on_message=on_message)
        await feed.start()
        await until(lambda: "backoff" in log.states)
        release.set()
        await until(lambda: 99 in seen)
        await feed.stop()
        assert server.connects == 2
    assert "10 messages wait" in log.infos[2]["reason"]
    assert seen[:10] == list(range(10))
    assert feed.counts.overflows >= 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_flood_is_no_overflow_while_the_handler_keeps_up(is_async: bool) -> None:
    count = 0

    def on_message(message: dict[str, Any]) -> None:
        nonlocal count
        count += 1

    async def on_message_async(message: dict[str, Any]) -> None:
        on_message(message)

    flood = [{"event": "tick", "data": {"version": 1, "n": n}} for n in range(25_000)]
    async with serving(say(*flood)) as server:
        # The peer answers no ping before all is sent: a slow machine must have time for that.
        handler = on_message_async if is_async else on_message
        feed, _ = make(server.url, pace=0.1, on_message=handler)
        await feed.start()
        await until(lambda: count == len(flood))
        await feed.stop()
        assert server.connects == 1
    assert feed.counts.overflows == 0


async def test_stop_ends_within_a_second_whatever_the_peer_and_the_handler_do() -> None:
    started = asyncio.Event()

    async def on_message(message: dict[str, Any]) -> None:
        started.set()
        await asyncio.sleep(30)

    async with serving(say({"n": 1}, then=deaf)) as server:
        feed, log = make(server.url, on_message=on_message)
        await feed.start()
        await started.wait()
        # Both would go on for 30 s; what a busy machine adds to the two waits is not the feed's.
        async with asyncio.timeout(15):
            await feed.stop()
        assert 2 * feed_module._STOP_S < 1
        assert feed.state == "stopped"
        assert log.states[-1] == "stopped"


async def test_a_handler_may_stop_its_feed() -> None:
    seen = []

    async with serving(say(*[{"n": n} for n in range(5)])) as server:
        feed, log = make(server.url)

        async def on_message(message: dict[str, Any]) -> None:
            seen.append(message["n"])
            await feed.stop()

        feed.on_message = on_message
        await feed.start()
        await feed.wait()
        await asyncio.sleep(0.02)
    assert seen == [0]
    assert log.states[-1] == "stopped"
