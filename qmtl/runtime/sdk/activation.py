"""The activation gate: whether a world lets an order through; it fails closed."""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

import structlog

from qmtl.core.order import BrokerageError
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.activation_state import (
    ALLOWED,
    SIDES,
    Activation,
    Move,
    Outcome,
    Standing,
    find_move,
    find_target,
)
from qmtl.runtime.sdk.bearer import BearerToken, Token
from qmtl.runtime.sdk.brokerage.execution import current_context, parse_domain
from qmtl.runtime.sdk.feed import LiveDataFeed
from qmtl.runtime.sdk.feed_state import FeedState
from qmtl.runtime.sdk.websocket_client import WebSocketClient

if TYPE_CHECKING:
    import aiohttp

TTL_POLLS = 3
"""Without word from the world for so many poll intervals its activation is stale."""
_EVENTS = frozenset({"activation_updated", "ActivationUpdated"})
_log = structlog.get_logger("qmtl.activation")


class GatewayRefused(BrokerageError, ConnectionError):  # noqa: N818 - says what happened
    """The gateway answered otherwise than with what was asked for."""


class ActivationManager:
    """Follows one world's activation and decides by it; stale, frozen or in doubt it denies.

    With `gateway_url` it asks `/worlds/{world_id}/activation` every runtime.POLL_INTERVAL_SECONDS and
    subscribes to the event stream, without which nothing passes; `ws_client` takes the stream's place when
    given. `token` (as a feed's) goes with every request. Without `gateway_url` an open `ws_client` alone
    keeps it fresh. `ttl_s` defaults to three poll intervals. Raises ValueError for a gateway without a world.
    """

    def __init__(
        self,
        gateway_url: str | None = None,
        *,
        ws_client: LiveDataFeed | None = None,
        world_id: str | None = None,
        strategy_id: str | None = None,
        token: Token | None = None,
        ttl_s: float | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        if gateway_url is not None and not world_id:
            raise ValueError("world_id: a gateway is asked about one world; name it")
        self.gateway_url = gateway_url.rstrip("/") if gateway_url is not None else None
        self.world_id = world_id
        self.strategy_id = strategy_id
        self.state = Activation()
        self._token = BearerToken(token)
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._fresh_ms: float | None = None
        self._is_stopped = False
        self._injected = ws_client
        self._stream: LiveDataFeed | None = ws_client
        self._stream_tokens: list[str] = []
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_asked = asyncio.Event()
        if ws_client is not None:
            self._listen_to(ws_client)

    # --- decisions ----------------------------------------------------------------------------------

    def allow_order(
        self,
        order: Mapping[str, Any],
        position: object = None,
        *,
        domain: str | None = None,
        is_spot: bool = False,
    ) -> bool:
        """Tell whether an order may pass; see `explain`. A denial is logged with its reason."""
        reason = self.explain(order, position, domain=domain, is_spot=is_spot)
        if reason:
            _log.warning(
                "order denied", world=self.world_id, reason=reason, action="see the world's activation"
            )
        return not reason

    def explain(
        self,
        order: Mapping[str, Any],
        position: object = None,
        *,
        domain: str | None = None,
        is_spot: bool = False,
    ) -> str:
        """Return why an order is denied, nothing when it passes.

        `position` is in signed base units (None: not known), `is_spot` tells of the transport. The order's
        domain is its own `execution_domain`, else `domain`, the running context's, the configured one.
        """
        move = Move.OPENING
        try:
            move = find_move(order, position, is_spot=is_spot)
            if move is Move.CANCEL:
                return ""
            standing, why = self._stand(order, domain)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the order is denied
            standing, why = Standing.UNTRUSTED, f"{type(error).__name__}: {error}"
        if move in ALLOWED[standing]:
            return ""
        return f"{move.value} order, world {standing.value}{f': {why}' if why else ''}"

    def allow_side(self, side: str) -> bool:
        """Tell whether an opening order of this side (buy, long, sell, short) may pass."""
        return not self.explain({"side": side})

    def weight_for_side(self, side: str) -> float:
        """Return the world's weight of a side in [0, 1], 0 when denied."""
        state = self.state
        return state.side(find_target(side)).weight if self.allow_side(side) else 0.0

    def is_stale(self) -> bool:
        """Tell whether what is known is too old, or in doubt, to decide by."""
        return bool(self._find_staleness())

    def _stand(self, order: Mapping[str, Any], domain: str | None) -> tuple[Standing, str]:
        target = find_target(order.get("side"))
        stale = self._find_staleness()
        if stale:
            return Standing.UNTRUSTED, stale
        state = self.state
        own = parse_domain(order.get("execution_domain") or domain) or current_context().domain
        own = own or runtime.settings().connectors.execution_domain
        if own is not None and state.domain is not None and own != state.domain:
            return Standing.UNTRUSTED, f"mode {state.effective_mode} is not of domain {own}"
        return state.stand(target), target

    def _find_staleness(self) -> str:
        if self._is_stopped:
            return "stopped"
        if self._fresh_ms is None:
            return "no update yet"
        if self.gateway_url is not None and self._stream is None:
            return "not subscribed"
        if self.state.is_suspect:
            return "the last update made no sense"
        if self.gateway_url is None and self._is_stream_open():
            return ""
        ttl_s = TTL_POLLS * runtime.POLL_INTERVAL_SECONDS if self._ttl_s is None else self._ttl_s
        age_s = (self._clock.real_ms() - self._fresh_ms) / 1000
        return f"no word for {age_s:.0f} s" if age_s > ttl_s else ""

    # --- updates ------------------------------------------------------------------------------------

    def take(self, message: Mapping[str, Any]) -> None:
        """Take a message of the event stream; other events, worlds and strategies are ignored."""
        payload = message.get("data", message)
        if (message.get("event") or message.get("type")) in _EVENTS and isinstance(payload, Mapping):
            self._update(payload, is_http=False)

    def _update(self, payload: Mapping[str, Any], *, is_http: bool) -> None:
        for name, own in (("world_id", self.world_id), ("strategy_id", self.strategy_id)):
            named = payload.get(name)
            if own is not None and named is not None and named != own:
                return
        self.state, outcome = self.state.update(payload, is_http=is_http)
        if outcome in {Outcome.APPLIED, Outcome.RENEWED}:
            self._fresh_ms = self._clock.real_ms()
        elif outcome is Outcome.SUSPECT:
            _log.warning(
                "activation update in doubt", world=self.world_id, action="orders wait for a good one"
            )

    def _listen_to(self, stream: LiveDataFeed) -> None:
        stream.on_message = _chain(self.take, stream.on_message)
        if hasattr(stream, "on_state"):
            stream.on_state = _chain(self._on_state, stream.on_state)

    def _on_state(self, state: str, info: Mapping[str, Any]) -> None:
        # The stream stood until now: only from here on does its silence age what it told.
        if state == FeedState.BACKOFF and self.gateway_url is None and self._fresh_ms is not None:
            self._fresh_ms = max(self._fresh_ms, self._clock.real_ms() - 1000 * float(info.get("gap_s", 0.0)))

    def _is_stream_open(self) -> bool:
        return getattr(self._stream, "state", None) == FeedState.OPEN

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the world; returns after the first round of questions, answered or not."""
        if self._task is not None:
            return
        if self._is_stopped:
            self.state, self._fresh_ms, self._is_stopped = Activation(), None, False
        if self._injected is not None:
            await self._injected.start()
        if self.gateway_url is None:
            return
        import aiohttp

        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._is_asked.clear()
        self._task = asyncio.create_task(self._follow())
        await self._is_asked.wait()

    async def stop(self) -> None:
        """End; everything but cancels is denied from here on."""
        self._is_stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        stream, self._stream = self._stream, self._injected
        if stream is not None:
            await stream.stop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _follow(self) -> None:
        try:
            while True:
                await self._refresh()
                self._is_asked.set()
                await self._clock.sleep(runtime.POLL_INTERVAL_SECONDS)
        finally:
            self._is_asked.set()

    async def _refresh(self) -> None:
        """Ask for the activation of both sides, and for a stream where none lives."""
        import aiohttp

        for what, ask in (("activation not read", self._reconcile), ("not subscribed", self._subscribe)):
            try:
                await ask()
            except (aiohttp.ClientError, OSError, ValueError, BrokerageError) as error:
                _log.warning(what, world=self.world_id, reason=_describe(error), action="asks again")

    async def _reconcile(self) -> None:
        path = f"/worlds/{quote(self.world_id or '', safe='')}/activation"
        named = {"strategy_id": self.strategy_id} if self.strategy_id else {}
        answers = [await self._call("GET", path, params={**named, "side": side}) for side in SIDES]
        for side, answer in zip(SIDES, answers, strict=True):
            self._update({**answer, "side": side}, is_http=True)

    async def _subscribe(self) -> None:
        if self._injected is not None:
            return
        if self._stream is not None:
            if self._stream.state != FeedState.FAILED:
                return
            await self._stream.stop()
            self._stream = None
        url, token = await self._describe_stream()
        self._stream_tokens = [token] if token else []
        self._stream = WebSocketClient(
            url, token=self._find_stream_token if token else None, clock=self._clock, random=self._random
        )
        self._listen_to(self._stream)
        await self._stream.start()

    async def _describe_stream(self) -> tuple[str, str | None]:
        wanted = {"world_id": self.world_id, "strategy_id": self.strategy_id or "", "topics": ["activation"]}
        answer = await self._call("POST", "/events/subscribe", json=wanted)
        url, token = answer.get("stream_url"), answer.get("token")
        if not isinstance(url, str) or not isinstance(token, str | None):
            raise GatewayRefused("/events/subscribe: no stream_url and token in the answer")
        absolute = urljoin(f"{self.gateway_url}/", url)
        return f"ws{absolute[4:]}" if absolute.startswith("http") else absolute, token

    async def _find_stream_token(self) -> str:
        """Return the token that came with the stream once, then a new one each time."""
        if self._stream_tokens:
            return self._stream_tokens.pop()
        return (await self._describe_stream())[1] or ""

    async def _call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        import aiohttp

        if self._session is None:
            raise GatewayRefused("stopped")
        timeout = aiohttp.ClientTimeout(total=runtime.HTTP_TIMEOUT_SECONDS)
        headers = await self._token.headers()
        url = f"{self.gateway_url}{path}"
        async with self._session.request(method, url, headers=headers, timeout=timeout, **body) as response:
            if not response.ok:
                raise GatewayRefused(f"{path}: HTTP {response.status}")
            answer = await response.json(content_type=None)
        if not isinstance(answer, dict):
            raise GatewayRefused(f"{path}: the answer is no object")
        return answer


def _chain(first: Callable[..., object], second: Callable[..., object] | None) -> Callable[..., object]:
    """Call the gate before whoever listened already."""

    async def both(*call: Any) -> None:
        first(*call)
        answer = second(*call) if second is not None else None
        if inspect.isawaitable(answer):
            await answer

    return both


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
