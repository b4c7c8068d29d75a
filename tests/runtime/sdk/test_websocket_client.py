"""The gateway's stream: tokens on the wire, topics and weights kept (connectors.md §4, §10.36)."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from qmtl.engine.clock import SeededRandom
from qmtl.runtime.sdk import FeedFailed, WebSocketClient
from tests.runtime.fast_clock import FastClock
from tests.runtime.sdk.socket_server import expel, hang_up, listen, make_jwt, say, serving, until

PLANTED = "planted-token-9"


def make(url: str, **options: Any) -> WebSocketClient:
    return WebSocketClient(url, clock=FastClock(), random=SeededRandom(7), **options)


async def test_topics_and_weights_are_kept_from_known_versions() -> None:
    events = [
        {"event": "queue_created", "data": {"version": 1, "queue_id": "n1", "topic": "t1"}},
        {"event": "sentinel_weight", "data": {"version": 1, "sentinel_id": "s1", "weight": 0.75}},
        {"type": "sentinel_weight", "version": 1, "sentinel_id": "s2", "weight": 1},
        {"event": "sentinel_weight", "data": {"version": 1, "sentinel_id": "s1", "weight": "heavy"}},
        {"event": "sentinel_weight", "data": {"sentinel_id": "s3", "weight": 0.5}},
        {"event": "queue_created", "data": {"version": 2, "queue_id": "n2", "topic": "t2"}},
        {
            "event": "queue_update",
            "data": {"version": 1, "tags": ["a"], "queues": [{"queue": "q1", "global": False}, "q2", "n1"]},
        },
    ]
    seen: list[Any] = []
    async with serving(say(*events)) as server:
        client = make(server.url, on_message=seen.append)
        await client.start()
        await until(lambda: len(seen) == 6)
        await client.stop()
    assert client.queue_topics == {"n1": "t1", "q1": "q1", "q2": "q2"}
    assert client.sentinel_weights == {"s1": 0.75, "s2": 1.0}
    assert {"event": "sentinel_weight", "data": {"sentinel_id": "s3", "weight": 0.5}} in seen
    assert client.counts.wrong_version == 1


async def test_36_a_callable_token_is_asked_at_every_connect_and_1008_reconnects() -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(f"t{len(asked)}")
        return asked[-1]

    async with serving(expel, 401, hang_up, listen) as server:
        client = make(server.url, token=token)
        await client.start()
        await until(lambda: server.connects == 4)
        await client.stop()
        assert server.tokens == ["Bearer t0", "Bearer t1", "Bearer t2", "Bearer t3"]


@pytest.mark.parametrize(("scene", "reason"), [(expel, "1008"), (401, "HTTP 401"), (403, "HTTP 403")])
async def test_36_a_fixed_token_that_is_refused_fails(scene: Any, reason: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving(scene, listen) as server:
            client = make(server.url, token=PLANTED)
            await client.start()
            with pytest.raises(FeedFailed, match=reason) as caught:
                await client.wait()
            assert client.state == "failed"
            assert server.tokens == [f"Bearer {PLANTED}"]
            await client.stop()
    assert PLANTED not in json.dumps([logs, str(caught.value), repr(client)], default=str)


async def test_36_1008_without_any_token_is_a_break_like_others() -> None:
    async with serving(expel, listen) as server:
        client = make(server.url)
        await client.start()
        await until(lambda: server.connects == 2)
        await client.stop()


@pytest.mark.parametrize("is_file", [False, True])
async def test_36_a_token_is_sent_anew_thirty_seconds_before_it_expires(
    tmp_path: Path, is_file: bool
) -> None:
    clock = FastClock()
    now_s = clock.now_ms() / 1000
    tokens = [make_jwt(now_s + 50), make_jwt(now_s + 5_000)]
    file = tmp_path / "token"
    file.write_text(tokens[0])
    asked_s: list[float] = []
    heard: list[tuple[float, Any]] = []

    def ask() -> str:
        asked_s.append(clock.now_ms() / 1000 - now_s)
        return tokens[min(len(asked_s), 2) - 1]

    async def scene(socket: web.WebSocketResponse) -> None:
        file.write_text(tokens[1])
        text = await socket.receive_str()
        heard.append((clock.now_ms() / 1000 - now_s, json.loads(text)))
        await listen(socket)

    async with serving(scene) as server:
        client = make(server.url, token=f"file:{file}" if is_file else ask)
        client._clock = clock
        await client.start()
        await until(lambda: heard)
        await client.stop()
        assert server.tokens == [f"Bearer {tokens[0]}"]
    at_s, message = heard[0]
    assert message == {"type": "refresh", "token": tokens[1]}
    # Twenty seconds after it began, and what three real ones of a busy machine are on this clock.
    assert 19 <= at_s <= 20 + 3 * clock.pace
    assert is_file or len(asked_s) == 2


async def test_a_token_that_cannot_be_had_is_a_break_like_others(tmp_path: Path) -> None:
    file = tmp_path / "token"
    states: list[tuple[str, str]] = []
    async with serving(listen) as server:
        client = make(
            server.url,
            token=f"file:{file}",
            on_state=lambda state, info: states.append((state, info["reason"])),
        )
        await client.start()
        await until(lambda: any(state == "backoff" for state, _ in states))
        file.write_text("late")
        await until(lambda: server.connects == 1)
        await client.stop()
        assert server.tokens == ["Bearer late"]
    assert "no such secret file" in states[1][1]
