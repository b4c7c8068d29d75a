"""A ccxt exchange for market data: made on first use, opened and closed, its errors judged."""

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from qmtl.engine.ports import Clock
from qmtl.runtime.io.request_lane import Fault
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import (
    BINANCE,
    api_hosts,
    ccxt_errors,
    enter_test_venue,
    is_at_test_venue,
    make_exchange,
    own_options,
    production_hosts,
    replace_hosts,
    settle,
)
from qmtl.runtime.sdk.brokerage.result import SandboxUnavailable
from qmtl.runtime.sdk.brokerage.send_policy import parse_retry_after
from qmtl.runtime.sdk.history import FatalFetchError, RateLimitedError, RetryableFetchError

Environment = Literal["production", "test"]
_NETWORK_ERRORS: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, TimeoutError)
_BANNED, _TOO_MANY = 418, 429


def require_ccxt(owner: str) -> None:
    """Raise RuntimeError naming the extra unless ccxt is installed; `owner` is the class that needs it."""
    if find_ccxt() is None:
        raise RuntimeError(f"ccxt is required for {owner}; run: uv pip install -e .[ccxt]")


class NotOffered(Exception):  # noqa: N818 - not a fault, an answer
    """The exchange lacks what was asked; the message says what."""


def find_ccxt() -> Any:
    """Return ccxt, None when it is not installed."""
    try:
        return import_module("ccxt")
    except ImportError:
        return None


class CcxtSession:
    """One exchange of `exchange_id` for `owner`, the class that a message names.

    `exchange` is one that exists already, `factory` makes one; otherwise it is made of the configuration,
    `connectors.ccxt_base_url` included. `streams` takes ccxt.pro. `is_rated` tells that our own limiter knows
    the rate, so that ccxt's is not asked. With `sandbox` it stands on a proven test venue or
    SandboxUnavailable is raised when it is made.
    """

    def __init__(
        self,
        owner: str,
        exchange_id: str,
        clock: Clock,
        *,
        exchange: Any = None,
        factory: Callable[..., Any] | None = None,
        streams: bool = False,
        sandbox: bool = False,
        is_rated: bool = False,
    ) -> None:
        self.owner = owner
        self.exchange_id = exchange_id
        self._clock = clock
        self._given = exchange
        self._factory = factory
        self._streams = streams
        self._sandbox = sandbox
        self._is_rated = is_rated
        self._made: Any = None
        self._is_proven = not sandbox
        self._lock = asyncio.Lock()

    @property
    def api(self) -> Any:
        """The exchange, made at its first use; RuntimeError when ccxt is missing."""
        if self._made is None:
            self._made = self._make()
        if not self._is_proven:
            if self._given is not None and not is_at_test_venue(self.exchange_id, self._made):
                raise SandboxUnavailable(f"{self.exchange_id}: the exchange given is on no test venue")
            self._is_proven = True
        return self._made

    @property
    def is_binance(self) -> bool:
        """Tell whether it is one of Binance's."""
        return self.exchange_id in BINANCE

    @property
    def endpoint(self) -> str | None:
        """The base address it talks to; None for the exchange's own hosts and for a double without any."""
        if self._given is None and self._factory is None and not self._sandbox:
            return runtime.settings().connectors.ccxt_base_url
        urls = _addresses(getattr(self.api, "urls", None))
        parts = [urlsplit(url) for url in urls if urlsplit(url).hostname]
        return f"{parts[0].scheme}://{parts[0].netloc}" if parts else None

    @property
    def environment(self) -> Environment | None:
        """`production` on the exchange's own host names, else `test`; None for a double without addresses."""
        if self._given is None and self._factory is None and not self._sandbox:
            base_url = runtime.settings().connectors.ccxt_base_url
            return "test" if base_url else "production"
        api = self.api
        if not _addresses(getattr(api, "urls", None)):
            return None
        if self._sandbox:
            return "test"
        return "production" if api_hosts(api) & production_hosts(api, own_only=True) else "test"

    async def open(self) -> None:
        """Make the exchange usable in this loop; contacts nobody."""
        async with self._lock:
            api = self.api
            if getattr(api, "closed_by_user", False) is True:
                # What belonged to another loop is made anew.
                api.asyncio_loop = None
                api.open()
            elif self._given is None and getattr(api, "session", None) is None and hasattr(api, "open"):
                api.open()
            session: Any = getattr(api, "session", None)
            if hasattr(session, "_retry_connection"):
                # How often a request is sent is decided in one place; aiohttp would send each lost one twice.
                session._retry_connection = False  # noqa: SLF001

    async def close(self) -> None:
        """Close connections; the exchange can be opened again."""
        async with self._lock:
            if self._made is not None and hasattr(self._made, "close"):
                await settle(self._made.close())

    async def call(self, method: str, *args: Any) -> Any:
        """Call one of the exchange's methods."""
        # A status left by an earlier answer must not explain a later error.
        self.api.last_http_status = None
        return await settle(getattr(self.api, method)(*args))

    def has(self, ability: str) -> bool:
        """Tell whether the exchange offers a unified ability; a double that does not say is believed."""
        has = getattr(self.api, "has", None)
        return bool(has.get(ability)) if isinstance(has, Mapping) else True

    def is_able(self, method: str) -> bool:
        """Tell whether the exchange has a method such as fetch_ohlcv."""
        return callable(getattr(self.api, method, None))

    @property
    def rate_limit_ms(self) -> float | None:
        """The interval the exchange asks for between requests."""
        interval = getattr(self.api, "rateLimit", None)
        return float(interval) if isinstance(interval, int | float) and interval > 0 else None

    async def fetch_time_ms(self) -> int | None:
        """Return the exchange's time, None when it does not tell."""
        api = self.api
        if not callable(getattr(api, "fetch_time", None)) or not self.has("fetchTime"):
            return None
        try:
            told = await settle(api.fetch_time())
        except self.errors:
            return None
        return told if isinstance(told, int) else None

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See FaultJudge."""
        own: tuple[type[Exception], ...] = (NotOffered, *_NETWORK_ERRORS)
        # An exchange that was handed in may be anything, and ccxt not installed.
        return own if find_ccxt() is None else ccxt_errors("BaseError", *own)

    def judge(self, error: Exception) -> Fault:
        """See FaultJudge: by HTTP status where there is one, else by ccxt's families."""
        names = {kind.__name__ for kind in type(error).__mro__}
        cause = error.__cause__
        status = _status_of(self.api, error)
        reason = f"{type(error).__name__}: {error}"[:300]
        if status in {_BANNED, _TOO_MANY} or names & {"RateLimitExceeded", "DDoSProtection"}:
            return Fault(RateLimitedError, reason, self._retry_after_s(), status == _BANNED)
        is_network = isinstance(error, _NETWORK_ERRORS) or isinstance(cause, _NETWORK_ERRORS)
        if is_network or "OperationFailed" in names or (status or 0) >= 500:
            return Fault(RetryableFetchError, reason)
        return Fault(FatalFetchError, reason)

    def _retry_after_s(self) -> float | None:
        headers = getattr(self._made, "last_response_headers", None)
        told = headers.items() if isinstance(headers, Mapping) else ()
        text = next((value for name, value in told if name.lower() == "retry-after"), None)
        return parse_retry_after(text, self._clock)

    def _make(self) -> Any:
        if self._given is not None:
            return self._given
        if self._factory is not None:
            return _call_factory(self._factory, self.exchange_id)
        require_ccxt(self.owner)
        connectors = runtime.settings().connectors
        config: dict[str, Any] = {"enableRateLimit": not self._is_rated}
        if connectors.ccxt_apikey and connectors.ccxt_secret:
            from qmtl.config import reveal

            config |= {"apiKey": reveal(connectors.ccxt_apikey), "secret": reveal(connectors.ccxt_secret)}
        module = import_module("ccxt.pro") if self._streams else None
        api = make_exchange(self.exchange_id, config, module=module)
        if getattr(api, "own_session", None) is False:
            # It runs in the caller's loop and keeps its own connections.
            api.own_session = True
        # Retries are ours, and so is the pace; the currencies are of no use here and need keys.
        own_options(api)["maxRetriesOnFailure"] = 0
        if self.is_binance and isinstance(getattr(api, "has", None), dict):
            api.has["fetchCurrencies"] = False
        base_url = connectors.ccxt_base_url
        if self._sandbox:
            enter_test_venue(self.exchange_id, api, base_url)
        elif base_url:
            replace_hosts(api, base_url)
        if base_url:
            _keep_spot_streams_apart(api)
        if urlsplit(base_url or "").scheme == "http":
            api.timeout_on_exit = 0
        return api


def _keep_spot_streams_apart(api: Any) -> None:
    """Leave `/stream` in the address of Binance's spot streams: ccxt tells spot from contracts by it."""
    streams = (getattr(api, "urls", None) or {}).get("api", {}).get("ws")
    if isinstance(streams, dict):
        for name in ("spot", "margin"):
            url = streams.get(name)
            if isinstance(url, str) and "/stream" not in url:
                streams[name] = url.removesuffix("/ws") + "/stream/ws"


def _status_of(api: Any, error: Exception) -> int | None:
    """Return the HTTP status that `error` is about, None when there was no answer."""
    if isinstance(error.__cause__, _NETWORK_ERRORS) or isinstance(error, _NETWORK_ERRORS):
        return None
    status = getattr(api, "last_http_status", None)
    if isinstance(status, int):
        return status
    words = str(error).split()
    return next((int(word) for word in words if word in {"418", "429"}), None)


def _addresses(urls: Any) -> list[str]:
    """Return the API's addresses in the order the exchange lists them."""
    tree = urls.get("api") if isinstance(urls, Mapping) else None

    def walk(node: Any) -> list[str]:
        if isinstance(node, Mapping):
            return [url for value in node.values() for url in walk(value)]
        return [node] if isinstance(node, str) else []

    return walk(tree)


def _call_factory(factory: Callable[..., Any], exchange_id: str) -> Any:
    """Call a factory that takes nothing, or else the exchange's name."""
    try:
        signature(factory).bind()
    except (TypeError, ValueError):
        return factory(exchange_id)
    return factory()
