"""The control port of a running owner: a UNIX socket, and a loopback HTTP port with a token.

Both speak the same JSON over HTTP. Getting safer (pause, halt, lowering a limit) takes one call; getting
riskier (resume, flatten, raising a limit) also takes the account's name.
"""

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from qmtl.core.event import AnyEvent, FlattenRequested, LimitSet, TradingStateSet
from qmtl.core.limits import RiskLimits
from qmtl.core.money import parse_decimal
from qmtl.core.reason import TradingState
from qmtl.engine.ports import Clock, Random

_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_WHOLE = frozenset({"max_open_orders", "orders_per_minute"})
_FRACTION = frozenset({"price_band", "max_drawdown"})
_EFFECT_S = 2.0
_POLL_S = 0.02
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Body = TypeVar("Body", bound=msgspec.Struct)


class ControlError(RuntimeError):
    """The control port cannot be opened, reached, or the owner failed to answer."""


class ControlRefusedError(ValueError):
    """The request itself is wrong or lacks the account's name; nothing changed."""


class Controlled(Protocol):
    """What the control port needs of a running owner."""

    def status(self) -> dict[str, Any]:
        """Return plain JSON data; `state`, `state_why` and `limits` (name to text or None) are read here."""

    def health(self) -> tuple[bool, str]:
        """Tell whether the engine loop turned lately, and in words how lately."""

    def ready(self) -> tuple[bool, list[str]]:
        """Tell whether the owner may trade, and every reason why not."""

    async def post(self, event: AnyEvent) -> None:
        """Hand an event to the engine loop."""

    def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """Yield news as plain JSON data until closed: marks, bars, orders, fills, decisions, risk use."""


class _Wish(msgspec.Struct, forbid_unknown_fields=True):
    who: str
    why: str = ""
    account: str = ""


class _LimitWish(msgspec.Struct, forbid_unknown_fields=True):
    who: str
    name: str
    value: str | None
    account: str = ""


class ControlServer:
    """Serves the control port of `controlled` while it runs."""

    def __init__(
        self,
        controlled: Controlled,
        *,
        account: str,
        clock: Clock,
        metrics: Callable[[], bytes],
        socket_path: Path | None = None,
        token: str | None = None,
        port: int = 0,
    ) -> None:
        """Open nothing yet. No `socket_path`: no socket; no `token`: no HTTP port; port 0 is any free one."""
        self.controlled = controlled
        self.account = account
        self.socket_path = socket_path
        self.port: int | None = None
        self._clock = clock
        self._metrics = metrics
        self._token = token
        self._wanted_port = port
        self._runners: list[web.AppRunner] = []
        self._streams: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str | None:
        """Address of the HTTP port, None without one."""
        return None if self.port is None else f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen. Raises ControlError naming a path or port that cannot be had; then nothing is open."""
        try:
            if self.socket_path is not None:
                await self._serve(_bind_unix(self.socket_path), with_token=False)
            if self._token is not None:
                listener = _bind_loopback(self._wanted_port)
                self.port = listener.getsockname()[1]
                await self._serve(listener, with_token=True)
        except ControlError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop listening, end every subscription, remove the socket."""
        for task in self._streams:
            task.cancel()
        for runner in self._runners:
            await runner.cleanup()
        if self._runners and self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)
        self._runners.clear()
        self.port = None

    async def _serve(self, listener: socket.socket, *, with_token: bool) -> None:
        app = web.Application(middlewares=[self._guard(with_token=with_token)], client_max_size=64 * 1024)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/subscribe", self._subscribe)
        app.router.add_post("/v1/pause", self._pause)
        app.router.add_post("/v1/halt", self._halt)
        app.router.add_post("/v1/resume", self._resume)
        app.router.add_post("/v1/flatten", self._flatten)
        app.router.add_post("/v1/limit", self._limit)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._runners.append(runner)
        await runner.setup()
        await web.SockSite(runner, listener).start()

    def _guard(self, *, with_token: bool) -> Any:
        expected = f"Bearer {self._token}".encode()

        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode()
            if with_token and request.path not in _OPEN_PATHS and not hmac.compare_digest(given, expected):
                return _answer({"error": "a bearer token is needed; it is in the control token file"}, 401)
            try:
                response: web.StreamResponse = await handler(request)
            except ControlRefusedError as error:
                return _answer({"error": str(error)}, 403 if "account name" in str(error) else 400)
            return response

        return guard

    # --- what anybody on this machine may read -----------------------------------------------------

    async def _healthz(self, request: web.Request) -> web.Response:
        is_ok, detail = self.controlled.health()
        return _answer({"ok": is_ok, "detail": detail}, 200 if is_ok else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        is_ok, reasons = self.controlled.ready()
        return _answer({"ok": is_ok, "reasons": reasons}, 200 if is_ok else 503)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": _METRICS_TYPE})

    # --- reading -----------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        return _answer(
            {**self.controlled.status(), "control": {"url": self.url, "socket": _text(self.socket_path)}}
        )

    async def _subscribe(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        task = asyncio.current_task()
        if task is not None:
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        with contextlib.suppress(ConnectionError):
            async for news in self.controlled.subscribe():
                await response.write(msgspec.json.encode(news, enc_hook=str) + b"\n")
        return response

    # --- getting safer -----------------------------------------------------------------------------

    async def _pause(self, request: web.Request) -> web.Response:
        wish = await _read(request, _Wish)
        if self._state() == TradingState.HALTED:
            return _answer(
                {"state": TradingState.HALTED, "note": "already halted, which is stricter than paused"}
            )
        return await self._set_state(TradingState.REDUCING, wish)

    async def _halt(self, request: web.Request) -> web.Response:
        return await self._set_state(TradingState.HALTED, await _read(request, _Wish))

    async def _limit(self, request: web.Request) -> web.Response:
        wish = await _read(request, _LimitWish)
        value = _parse_limit(wish.name, wish.value)
        found = dict(self.controlled.status().get("limits") or {}).get(wish.name)
        current = None if found is None else str(found)
        if is_loosening(current, value):
            shown = "unlimited" if value is None else value
            self._require_name(wish.account, f"raising {wish.name} from {current} to {shown}")
        await self.controlled.post(LimitSet(self._clock.now_ms(), wish.name, value, wish.who))
        return _answer({"limit": wish.name, "from": current, "to": value})

    # --- getting riskier ---------------------------------------------------------------------------

    async def _resume(self, request: web.Request) -> web.Response:
        wish = await _read(request, _Wish)
        self._require_name(wish.account, "resume")
        return await self._set_state(TradingState.ACTIVE, wish)

    async def _flatten(self, request: web.Request) -> web.Response:
        wish = await _read(request, _Wish)
        self._require_name(wish.account, "flatten")
        await self.controlled.post(FlattenRequested(self._clock.now_ms(), wish.who, wish.why))
        return _answer({"state": self._state(), "flatten": "requested"})

    async def _set_state(self, state: TradingState, wish: _Wish) -> web.Response:
        await self.controlled.post(TradingStateSet(self._clock.now_ms(), state, wish.who, wish.why))
        waited_s = 0.0
        while self._state() != state and waited_s < _EFFECT_S:
            await self._clock.sleep(_POLL_S)
            waited_s += _POLL_S
        return _answer({"state": self._state(), "asked": state}, 200 if self._state() == state else 202)

    def _state(self) -> str:
        return str(self.controlled.status().get("state", ""))

    def _require_name(self, given: str, what: str) -> None:
        if given != self.account:
            found = f"got {given!r}" if given else "none was given"
            raise ControlRefusedError(f"{what} needs the account name {self.account!r}; {found}")


def is_loosening(current: str | None, new: str | None) -> bool:
    """Tell whether moving a limit from `current` to `new` allows more; None is no limit."""
    if current is None:
        return False
    return new is None or Decimal(new) > Decimal(current)


def ensure_token(path: Path, random: Random) -> str:
    """Return the token of a file only its owner can read, made at its first use.

    Raises ControlError when the file is open to others or cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(random.randbytes(32).hex() + "\n")
        if path.stat().st_mode & 0o077:
            raise ControlError(f"{path}: the control token is readable by others; run chmod 600 on it")
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ControlError(f"{path}: cannot keep the control token: {error}") from None
    if len(token) < 32:
        raise ControlError(f"{path}: holds no control token; remove it and start again")
    return token


def _parse_limit(name: str, value: str | None) -> str | None:
    if name not in RiskLimits.__struct_fields__:
        raise ControlRefusedError(
            f"limit {name!r} is not known; known: {', '.join(RiskLimits.__struct_fields__)}"
        )
    if value is None:
        return None
    try:
        number = parse_decimal(value, name)
    except ValueError as error:
        raise ControlRefusedError(str(error)) from None
    if number <= 0 or (name in _WHOLE and number % 1) or (name in _FRACTION and number >= 1):
        kind = "a whole number > 0" if name in _WHOLE else "between 0 and 1" if name in _FRACTION else "> 0"
        raise ControlRefusedError(f"{name}: found {value}, expected {kind}")
    return format(number.to_integral_value() if name in _WHOLE else number, "f")


async def _read(request: web.Request, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise ControlRefusedError(f"{request.path}: {error}") from None


def _answer(body: dict[str, Any], status: int = 200) -> web.Response:
    text = msgspec.json.encode(body, enc_hook=str)
    return web.Response(body=text, status=status, content_type="application/json")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > 100:
        raise ControlError(f"{path}: longer than a UNIX socket's name may be; set control.socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and _is_answered(path):
            raise ControlError(f"{path}: another trader answers on this control socket")
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
    except (OSError, ControlError) as error:
        listener.close()
        raise error if isinstance(error, ControlError) else ControlError(f"{path}: {error}") from None
    return listener


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _bind_loopback(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise ControlError(
            f"control port {port} is taken; set control.port to another, or to 0 for any"
        ) from None
    return listener
