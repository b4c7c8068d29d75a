import asyncio
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.event import AnyEvent, FlattenRequested, LimitSet, TradingStateSet
from qmtl.engine.clock import SystemClock
from qmtl.engine.control import ControlError, ControlRefusedError, ControlServer, ensure_token, is_loosening
from qmtl.engine.control_client import ControlClient

TOKEN = "t" * 64


class Desk:
    """An owner that obeys at once and remembers what it was told."""

    def __init__(self) -> None:
        self.posted: list[AnyEvent] = []
        self.state = "ACTIVE"
        self.limits: dict[str, str | None] = {"max_daily_loss": "50", "max_position": None}
        self.reasons: list[str] = []
        self.news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_deaf = False

    def status(self) -> dict[str, Any]:
        return {"state": self.state, "limits": self.limits}

    def health(self) -> tuple[bool, str]:
        return not self.is_deaf, "loop turned 0.1 s ago"

    def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    async def post(self, event: AnyEvent) -> None:
        self.posted.append(event)
        if isinstance(event, TradingStateSet) and not self.is_deaf:
            self.state = event.state

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self.news.get()


Opener = Callable[[], Any]


@asynccontextmanager
async def served(place: Path, port: int = 0) -> AsyncIterator[tuple[Desk, ControlServer, ControlClient]]:
    desk = Desk()
    server = ControlServer(
        desk,
        account="desk-a91f",
        clock=SystemClock(),
        metrics=lambda: b"qmtl_equity 1\n",
        socket_path=place / "run" / "desk.sock",
        token=TOKEN,
        port=port,
    )
    async with AsyncExitStack() as stack:
        await server.start()
        stack.push_async_callback(server.aclose)
        assert server.socket_path is not None
        yield desk, server, await stack.enter_async_context(ControlClient(server.socket_path, who="tester"))


async def test_getting_safer_takes_one_call(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, _, client):
        assert (await client.pause("lunch"))["state"] == "REDUCING"
        assert (await client.halt("smoke"))["state"] == "HALTED"
        assert (await client.set_limit("max_daily_loss", "20"))["to"] == "20"
        assert (await client.set_limit("max_position", "1000"))["from"] is None
        halt = desk.posted[1]
        assert isinstance(halt, TradingStateSet)
        assert (halt.who, halt.why, halt.state) == ("tester", "smoke", "HALTED")
        assert [type(event) for event in desk.posted[2:]] == [LimitSet, LimitSet]


async def test_pause_never_loosens_a_halt(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, _, client):
        await client.halt()
        answer = await client.pause()
        assert answer["state"] == "HALTED"
        assert "stricter" in answer["note"]
        assert len(desk.posted) == 1


async def test_getting_riskier_needs_the_account_name(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, _, client):
        await client.halt()
        for call in (
            client.resume("wrong"),
            client.resume(""),
            client.flatten("desk"),
            client.set_limit("max_daily_loss", "51"),
            client.set_limit("max_daily_loss", None),
        ):
            with pytest.raises(ControlRefusedError, match="needs the account name 'desk-a91f'"):
                await call
        assert len(desk.posted) == 1
        assert (await client.resume("desk-a91f"))["state"] == "ACTIVE"
        assert (await client.set_limit("max_daily_loss", "51", "desk-a91f"))["to"] == "51"
        await client.flatten("desk-a91f", "enough")
        last = desk.posted[-1]
        assert isinstance(last, FlattenRequested)
        assert (last.who, last.why) == ("tester", "enough")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_loss", "5", "limit 'max_loss' is not known; known: max_order_notional"),
        ("max_daily_loss", "much", "max_daily_loss: expected a number"),
        ("max_daily_loss", "-5", "expected > 0"),
        ("max_daily_loss", "NaN", "finite"),
        ("max_open_orders", "2.5", "a whole number > 0"),
        ("max_drawdown", "5", "between 0 and 1"),
    ],
)
async def test_a_bad_limit_changes_nothing(tmp_path: Path, name: str, value: str, message: str) -> None:
    async with served(tmp_path) as (desk, _, client):
        with pytest.raises(ControlRefusedError, match=message):
            await client.set_limit(name, value, "desk-a91f")
        assert desk.posted == []


async def test_http_needs_the_token_except_for_health_and_metrics(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, server, _), aiohttp.ClientSession(server.url) as session:
        for path in ("/v1/status", "/v1/subscribe"):
            assert (await session.get(path)).status == 401
        wrong = {"Authorization": "Bearer " + "u" * 64}
        assert (await session.post("/v1/halt", json={"who": "x"}, headers=wrong)).status == 401
        assert desk.posted == []
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert (await session.post("/v1/halt", json={"who": "x"}, headers=right)).status == 200
        assert (await (await session.get("/v1/status", headers=right)).json())["state"] == "HALTED"
        assert (await (await session.get("/metrics")).text()) == "qmtl_equity 1\n"
        assert (await session.get("/healthz")).status == 200
        assert (await session.get("/readyz")).status == 200
        desk.reasons.append("user stream is stale")
        desk.is_deaf = True
        answer = await session.get("/readyz")
        assert (answer.status, (await answer.json())["reasons"]) == (503, ["user stream is stale"])
        assert (await session.get("/healthz")).status == 503


async def test_malformed_requests_are_named(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, server, _), aiohttp.ClientSession(server.url) as session:
        right = {"Authorization": f"Bearer {TOKEN}"}
        for body, word in (
            ("{", "truncated"),
            ('{"who": 5}', "who"),
            ("{}", "who"),
            ('{"who":"x","y":1}', "y"),
        ):
            answer = await session.post("/v1/halt", data=body, headers=right)
            assert answer.status == 400
            assert word in (await answer.json())["error"]
        assert desk.posted == []


async def test_a_subscriber_gets_news_and_closing_ends_it(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, server, client):
        seen: list[dict[str, Any]] = []

        async def listen() -> None:
            async for news in client.subscribe():
                seen.append(news)  # noqa: PERF401 - each is waited for as it comes

        task = asyncio.create_task(listen())
        desk.news.put_nowait({"type": "mark", "price": 1.5})
        desk.news.put_nowait({"type": "decision", "reason": "no_signal"})
        async with asyncio.timeout(30):
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            await server.aclose()
            await task
        assert [news["type"] for news in seen] == ["mark", "decision"]


async def test_an_owner_that_does_not_obey_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as (desk, _, client):
        desk.is_deaf = True
        answer = await client.halt()
        assert (answer["state"], answer["asked"]) == ("ACTIVE", "HALTED")


async def test_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "desk.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with served(tmp_path) as (_, server, client):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await client.status())["control"]["url"] == server.url
        second = ControlServer(
            Desk(), account="x", clock=SystemClock(), metrics=lambda: b"", socket_path=path
        )
        with pytest.raises(ControlError, match="another trader answers"):
            await second.start()
    assert not path.exists()


async def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ControlError, match=f"control port {port} is taken"):
            async with served(tmp_path, port):
                pass
    assert not (tmp_path / "run" / "desk.sock").exists()


async def test_nobody_there_is_one_clear_error(tmp_path: Path) -> None:
    async with ControlClient(tmp_path / "none.sock") as client:
        with pytest.raises(ControlError, match=r"no trader answers on .*none\.sock"):
            await client.status()


async def test_a_long_socket_path_is_refused_before_binding(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    server = ControlServer(Desk(), account="x", clock=SystemClock(), metrics=lambda: b"", socket_path=path)
    with pytest.raises(ControlError, match=r"set control\.socket"):
        await server.start()


def test_the_token_file_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run" / "token"
    token = ensure_token(path, random.Random(1))
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path, random.Random(2)) == token
    path.chmod(0o644)
    with pytest.raises(ControlError, match="chmod 600"):
        ensure_token(path, random.Random(3))
    path.chmod(0o600)
    path.write_text("short", "ascii")
    with pytest.raises(ControlError, match="holds no control token"):
        ensure_token(path, random.Random(4))


@given(st.decimals(1, 1000, places=3), st.decimals(1, 1000, places=3))
def test_loosening_is_a_higher_number_or_none(current: Any, new: Any) -> None:
    assert is_loosening(str(current), str(new)) == (new > current)
    assert is_loosening(str(current), None)
    assert not is_loosening(None, str(new))
