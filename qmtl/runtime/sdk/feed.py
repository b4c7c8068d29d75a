"""Live messages over a WebSocket that survives what networks do, and a feed in memory beside it."""

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit

import msgspec
import structlog

from qmtl.core.order import BrokerageError
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.bearer import BearerToken, Token, TokenUnavailable, parse_expiry_s
from qmtl.runtime.sdk.feed_state import TRANSITIONS, FeedCounts, FeedEvent, FeedState
from qmtl.runtime.sdk.handler_queue import HandlerQueue
from qmtl.runtime.sdk.socket_watch import SocketWatch

if TYPE_CHECKING:
    import aiohttp

    from qmtl.runtime.sdk.reconnecting_socket import Break, ReconnectingSocket

MAX_WAITING = 10_000
"""Messages that may wait for the handler; one more makes the connection anew."""
REFRESH_BEFORE_S = 30.0
"""A token that can be renewed is sent anew so long before it expires."""
_REFRESH_AGAIN_S = 5.0
_STOP_S = 0.4
_log = structlog.get_logger("qmtl.feed")

Handler = Callable[[dict[str, Any]], object]
StateHandler = Callable[[str, dict[str, Any]], object]


class FeedFailed(BrokerageError, ConnectionError):  # noqa: N818 - the name is published
    """A feed gave up: its budget is spent, or the server refuses its token for good."""


class LiveDataFeed(Protocol):
    """A source of live messages; each reaches the handler unchanged."""

    on_message: Handler | None

    @property
    def state(self) -> str:
        """One of FeedState."""

    async def start(self) -> None:
        """Begin delivering; nothing happens when it has begun already."""

    async def stop(self) -> None:
        """End; nothing is delivered once this returned."""


class WebSocketFeed:
    """Delivers the JSON objects of one WebSocket to `on_message`, in order, and comes back after breaks.

    `url` is ws or wss; an empty path becomes /ws. `token` is sent as a bearer: text, `file:PATH` or a
    function, the latter two read at every connect and 30 s before `exp`. `on_state(state, info)` hears of
    every state, `info` holding `reason`, `attempt` (1 is the first) and `gap_s`, the real seconds since
    the last frame of the connection that broke. Both may be plain or async and may raise: that is counted.
    `max_total_s` defaults to runtime.WS_MAX_TOTAL_TIME_SECONDS, None being no bound. A message whose
    payload has another `version` than `event_version` is dropped; None takes every version.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Handler | None = None,
        token: Token | None = None,
        on_state: StateHandler | None = None,
        max_retries: int | None = None,
        max_total_s: float | None = None,
        base_delay_s: float = 1.0,
        backoff_factor: float = 2.0,
        max_delay_s: float = 8.0,
        stall_timeout_s: float | None = None,
        event_version: int | None = 1,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self.url = _complete_url(url)
        self.on_message = on_message
        self.on_state = on_state
        self._token = BearerToken(token)
        self._max_retries = max_retries
        self._max_total_s = max_total_s
        self._base_delay_s = base_delay_s
        self._backoff_factor = backoff_factor
        self._max_delay_s = max_delay_s
        self._stall_timeout_s = stall_timeout_s
        self._event_version = event_version
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._name = urlsplit(self.url).netloc.rpartition("@")[2]
        self._state = FeedState.IDLE
        self._counts = FeedCounts()
        self._heard_s: float | None = None
        self._watch: SocketWatch | None = None
        self._headers: dict[str, str] = {}
        self._versions_told: set[str] = set()
        self._socket: ReconnectingSocket | None = None
        self._inbox: HandlerQueue | None = None
        self._states: HandlerQueue | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] | None = None

    @property
    def state(self) -> FeedState:
        """Where the feed stands."""
        return self._state

    @property
    def counts(self) -> FeedCounts:
        """What was met so far."""
        inbox, states = self._inbox, self._states
        errors = (inbox.errors if inbox else 0) + (states.errors if states else 0)
        return msgspec.structs.replace(self._counts, handler_errors=self._counts.handler_errors + errors)

    # --- the life of the feed -----------------------------------------------------------------------

    async def start(self) -> None:
        """Begin connecting and return; nothing happens when it has begun already."""
        if self._state is FeedState.FAILED:
            await self._finish()
        if FeedEvent.STARTED not in TRANSITIONS[self._state]:
            return
        self._counts = self.counts
        self._inbox = HandlerQueue("on_message", lambda: self.on_message, MAX_WAITING)
        self._states = HandlerQueue("on_state", lambda: self.on_state)
        self._ended = asyncio.get_running_loop().create_future()
        self._socket = None
        self._move(FeedEvent.STARTED)
        self._tasks = {
            "run": asyncio.create_task(self._run()),
            "inbox": asyncio.create_task(self._inbox.run()),
            "states": asyncio.create_task(self._states.run()),
        }
        self._tasks["run"].add_done_callback(self._over)

    async def stop(self) -> None:
        """End within a second; nothing is delivered once this returned."""
        if self._state is FeedState.STOPPED:
            return
        if self._states is None:
            self._states = HandlerQueue("on_state", lambda: self.on_state)
        self._move(FeedEvent.STOPPED, "stopped")
        teller = self._tasks.get("states")
        if teller is None or teller.done():
            self._tasks["states"] = asyncio.create_task(self._states.run())
        await self._finish()

    async def wait(self) -> None:
        """Wait until the feed has ended; FeedFailed when it gave up."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def _finish(self) -> None:
        """End every task, the caller's own excepted: a handler may stop its feed."""
        tasks, self._tasks = self._tasks, {}
        if self._inbox is not None:
            self._inbox.drop()
        if self._states is not None:
            self._states.finish()
        own = asyncio.current_task()
        others = {task for task in tasks.values() if task is not own}
        for name in ("run", "inbox", "keeper"):
            if (task := tasks.get(name)) in others and task is not None:
                task.cancel()
        if others:
            await asyncio.wait(others, timeout=_STOP_S)
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_STOP_S)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _over(self, task: asyncio.Task[None]) -> None:
        """The socket gave up, or broke down: tell it, and let what was received be delivered."""
        error = None if task.cancelled() else task.exception()
        if error is None or self._ended is None or self._ended.done():
            return
        is_spent = self._state is FeedState.BACKOFF
        self._move(FeedEvent.BUDGET_SPENT if is_spent else FeedEvent.DENIED, str(error))
        self._ended.set_exception(FeedFailed(str(error)))
        # Whoever does not wait is told by the state; the loop need not warn of it again.
        self._ended.exception()
        for queue in (self._inbox, self._states):
            if queue is not None:
                queue.finish()

    def _move(self, event: FeedEvent, reason: str = "") -> None:
        state = TRANSITIONS[self._state].get(event)
        if state is None or self._states is None:
            return
        self._state = state
        breaks = self._socket.reconnect.breaks if self._socket is not None else 0
        attempt = max(1, breaks + (state in {FeedState.CONNECTING, FeedState.OPEN}))
        gap_s = 0.0 if self._heard_s is None else self._clock.real_ms() / 1000 - self._heard_s
        self._states.put(state, {"reason": reason, "attempt": attempt, "gap_s": gap_s})

    # --- the connection -----------------------------------------------------------------------------

    async def _run(self) -> None:
        import aiohttp

        patience = aiohttp.ClientTimeout(total=runtime.WS_RECV_TIMEOUT_SECONDS / 3)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=patience, cookie_jar=jar) as session:
            self._socket = self._make_socket(session)
            await self._socket.run()

    def _make_socket(self, session: "aiohttp.ClientSession") -> "ReconnectingSocket":
        from qmtl.runtime.sdk.reconnecting_socket import ReconnectingSocket

        max_total_s = self._max_total_s
        reconnect = Reconnect(
            self._clock,
            self._random,
            base_delay_s=self._base_delay_s,
            factor=self._backoff_factor,
            max_delay_s=self._max_delay_s,
            max_retries=self._max_retries,
            max_total_s=runtime.WS_MAX_TOTAL_TIME_SECONDS if max_total_s is None else max_total_s,
        )
        return ReconnectingSocket(
            self._name,
            lambda: session,
            self._clock,
            reconnect,
            find_url=self._find_url,
            find_headers=lambda: self._headers,
            take=self._take,
            on_open=self._opened,
            on_break=self._broke,
            make_watch=self._make_watch,
            is_final=self._is_denial,
        )

    def _make_watch(self) -> SocketWatch:
        timeout_s = runtime.WS_RECV_TIMEOUT_SECONDS
        self._watch = SocketWatch(self._clock, timeout_s=timeout_s, stall_timeout_s=self._stall_timeout_s)
        return self._watch

    async def _find_url(self) -> str:
        self._move(FeedEvent.DELAY_OVER)
        self._headers = await self._token.headers()
        return self.url

    def _is_denial(self, code: int) -> bool:
        """Tell whether the server refuses this token for good; one that can be renewed is worth a try."""
        if self._token.is_renewable:
            return False
        return code in {401, 403} or (code == 1008 and bool(self._token))

    def _opened(self) -> None:
        self._counts.connects += 1
        self._move(FeedEvent.SHOOK_HANDS)
        if self._token.is_renewable:
            self._tasks["keeper"] = asyncio.create_task(self._keep_token())

    def _broke(self, broken: "Break") -> None:
        keeper = self._tasks.pop("keeper", None)
        if keeper is not None:
            keeper.cancel()
        if self._watch is not None:
            self._heard_s, self._watch = self._watch.heard_s, None
        if not broken.is_final:
            self._move(FeedEvent.BROKE, broken.reason)

    async def _keep_token(self) -> None:
        """Send the token anew before it expires, for as long as this connection stands."""
        sent = self._headers["Authorization"].removeprefix("Bearer ")
        while (expiry_s := parse_expiry_s(sent)) is not None:
            left_s = expiry_s - self._clock.now_ms() / 1000 - REFRESH_BEFORE_S
            await self._clock.sleep(max(_REFRESH_AGAIN_S, left_s))
            try:
                token = await self._token.read()
            except TokenUnavailable as error:
                _log.warning("token not renewed", feed=self._name, reason=str(error), action="asks again")
                continue
            if token is not None and token != sent and self._socket is not None:
                self._socket.send(msgspec.json.encode({"type": "refresh", "token": token}).decode())
                sent = token

    # --- messages -----------------------------------------------------------------------------------

    def _take(self, body: bytes) -> None:
        try:
            message = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = None
        if not isinstance(message, dict):
            self._counts.not_objects += 1
            return
        data = message.get("data")
        payload = data if isinstance(data, dict) else message
        event = message.get("event") or message.get("type")
        version, wanted = payload.get("version"), self._event_version
        if version is not None and wanted is not None and version != wanted:
            self._refuse_version(str(event), version)
            return
        if self._inbox is None or not self._inbox.put(message):
            self._overflow()
            return
        self._counts.messages += 1
        if isinstance(event, str) and (version is not None or wanted is None):
            self._follow(event, payload)

    def _follow(self, event: str, payload: dict[str, Any]) -> None:
        """Take what a message of a known version says into the client's own state."""

    def _refuse_version(self, event: str, version: object) -> None:
        self._counts.wrong_version += 1
        told = f"{event} {version!r}"[:100]
        if told not in self._versions_told and len(self._versions_told) < 100:
            self._versions_told.add(told)
            _log.warning("version not known", feed=self._name, what=told, action="dropped; update qmtl")

    def _overflow(self) -> None:
        self._counts.overflows += 1
        if self._socket is not None:
            self._socket.kick(f"{MAX_WAITING} messages wait for the handler")


class FakeLiveDataFeed:
    """A feed in memory: what `emit` is given reaches `on_message`, whose errors reach the caller."""

    def __init__(self, *, on_message: Handler | None = None) -> None:
        self.on_message = on_message
        self._state = FeedState.IDLE

    @property
    def state(self) -> FeedState:
        """Where the feed stands."""
        return self._state

    async def start(self) -> None:
        """Let messages through."""
        self._state = FeedState.OPEN

    async def stop(self) -> None:
        """Let nothing through any more."""
        self._state = FeedState.STOPPED

    async def emit(self, message: dict[str, Any]) -> bool:
        """Deliver a message before returning True; False when the feed does not run."""
        if self._state is not FeedState.OPEN:
            return False
        answer = self.on_message(message) if self.on_message is not None else None
        if inspect.isawaitable(answer):
            await answer
        return True


def _complete_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname or not _has_port(parts):
        raise ValueError(
            f"url: expected ws://HOST[:PORT]… or wss://HOST[:PORT]…, got scheme {parts.scheme!r}"
        )
    return parts._replace(path="/ws").geturl() if parts.path in {"", "/"} else url


def _has_port(parts: SplitResult) -> bool:
    """Tell whether the port is none or a number a port can be."""
    try:
        return parts.port != 0
    except ValueError:
        return False
