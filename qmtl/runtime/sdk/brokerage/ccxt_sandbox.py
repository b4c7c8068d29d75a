"""A ccxt exchange made, and moved to a test venue with proof that it is one."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage.result import SandboxUnavailable
from qmtl.settings import is_loopback

BINANCE_FUTURES = frozenset({"binanceusdm", "binancecoinm"})
BINANCE = BINANCE_FUTURES | {"binance"}
_CONTRACT_TYPES = frozenset({"future", "swap", "delivery"})
_OKX = frozenset({"okx", "myokx", "okxus"})
_OWN_TLS = frozenset({"session", "verify", "cafile", "ssl_context", "aiohttp_trust_env"})
_PAPER_HEADER = "x-qmtl-paper"
_SIMULATED = "x-simulated-trading"
# What a toggle raises that finds no test venue: ccxt's NotSupported apart, it trips over missing addresses.
_TOGGLE_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def load_ccxt() -> Any:
    """Return ccxt's asynchronous module; RuntimeError naming the extra when it is not installed."""
    try:
        root = import_module("ccxt")
    except ImportError:
        raise RuntimeError("ccxt is required for this client: pip install 'qmtl[ccxt]'") from None
    return import_module("ccxt.async_support") if hasattr(root, "__path__") else root


def ccxt_errors(name: str = "BaseError", *more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return ccxt's error family of that name and `more`, for an except clause; a double may have none."""
    family = getattr(load_ccxt(), name, None)
    return (family, *more) if isinstance(family, type) and issubclass(family, Exception) else more


def make_exchange(exchange_id: str, config: Mapping[str, Any], module: Any = None) -> Any:
    """Return a ccxt exchange of `config`, nothing contacted; ValueError for an id that ccxt lacks.

    `module` is ccxt's asynchronous one, or `ccxt.pro` for streams.
    """
    module = module or load_ccxt()
    known = getattr(module, "exchanges", None)
    kind = getattr(module, exchange_id, None) if known is None or exchange_id in known else None
    if not callable(kind):
        raise ValueError(f"exchange {exchange_id!r} is not one ccxt knows")
    if isinstance(kind, type):
        kind = _extended(kind)
    exchange = kind(dict(config))
    if hasattr(exchange, "own_session") and config.keys().isdisjoint(_OWN_TLS):
        exchange.own_session = False
    return exchange


def _extended(kind: Any) -> type:
    """Return the exchange's class with the HTTP status of its last answer, and without its finaliser."""

    def on_rest_response(self: Any, code: int, *rest: Any) -> Any:
        self.last_http_status = code
        return kind.on_rest_response(self, code, *rest)

    # The finaliser warns of an open session; ours belongs to the background loop.
    return type(kind.__name__, (kind,), {"__del__": lambda _: None, "on_rest_response": on_rest_response})


async def open_session(exchange: Any) -> None:
    """Let `exchange` talk through the background loop's HTTP session; only for coroutines on that loop."""
    if getattr(exchange, "own_session", None) is False and (
        exchange.session is None or exchange.session.closed
    ):
        exchange.session = await BACKGROUND.session()
        exchange.asyncio_loop = None


def own_options(exchange: Any) -> dict[str, Any]:
    """Return the exchange's own option table, made where a double has none."""
    options = getattr(exchange, "options", None)
    if not isinstance(options, dict):
        options = exchange.options = {}
    return options


def is_binance_futures(exchange_id: str, exchange: Any) -> bool:
    """Tell whether the exchange trades contracts at Binance."""
    options = getattr(exchange, "options", None) or {}
    is_contract = options.get("defaultType") in _CONTRACT_TYPES
    return exchange_id in BINANCE_FUTURES or (exchange_id in BINANCE and is_contract)


def enter_sandbox(exchange_id: str, exchange: Any, *, demo: bool = False) -> None:
    """Move `exchange` to its venue's test hosts and prove it; SandboxUnavailable otherwise.

    Binance's contracts have demo trading, everything else ccxt's sandbox; `demo` forces the former. Proof:
    no API host is shared with production; OKX and Bitget, which test on their production hosts, are
    proven by the header or option that marks every request.
    """
    production = production_hosts(exchange)
    is_futures = is_binance_futures(exchange_id, exchange)
    try:
        if demo or is_futures:
            exchange.enable_demo_trading(True)
        else:
            exchange.set_sandbox_mode(True)
    except ccxt_errors("BaseError", *_TOGGLE_ERRORS) as error:
        raise SandboxUnavailable(f"{exchange_id} has no test venue ({type(error).__name__})") from error
    if exchange_id == "binance" and not is_futures:
        # The other markets' test hosts retired; asking them for markets would fail every call.
        exchange.options["fetchMarkets"] = {**_dict(exchange.options.get("fetchMarkets")), "types": ["spot"]}
    if not getattr(exchange, "urls", None):
        return
    if not _is_proven(exchange_id, exchange, production):
        raise SandboxUnavailable(f"{exchange_id}: its test mode still talks to production hosts")


def is_at_test_venue(exchange_id: str, exchange: Any) -> bool:
    """Tell whether an exchange that exists shares no API host with production, or marks every request."""
    return _is_proven(exchange_id, exchange, production_hosts(exchange, own_only=True))


def check_paper(exchange: Any) -> None:
    """Raise SandboxUnavailable unless the last answer came from a paper exchange."""
    headers = _dict(getattr(exchange, "last_response_headers", None))
    if not any(name.lower() == _PAPER_HEADER for name in headers):
        raise SandboxUnavailable("connectors.ccxt_base_url: what answers there is no paper exchange")


def enter_test_venue(exchange_id: str, exchange: Any, base_url: str | None, *, demo: bool = False) -> None:
    """Enter the sandbox, then send every call to `base_url` where one is configured.

    Only a loopback paper exchange or one of the sandbox's own hosts may stand in for it.
    """
    is_paper = base_url is not None and is_loopback(base_url)
    try:
        enter_sandbox(exchange_id, exchange, demo=demo)
    except SandboxUnavailable:
        if not is_paper:
            raise
    if base_url is None:
        return
    if not is_paper and urlsplit(base_url).hostname not in api_hosts(exchange):
        raise SandboxUnavailable(
            f"connectors.ccxt_base_url: {urlsplit(base_url).hostname} is no known test host"
        )
    replace_hosts(exchange, base_url)


def replace_hosts(exchange: Any, base_url: str) -> None:
    """Send every API call to `base_url`, paths unchanged."""
    urls = getattr(exchange, "urls", None)
    if urls:
        urls["api"] = _moved(urls.get("api"), base_url.rstrip("/"))


async def settle(value: Any) -> Any:
    """Return what a ccxt call answers, awaited where it must be."""
    return await value if inspect.isawaitable(value) else value


def api_hosts(exchange: Any) -> set[str]:
    """Return the hosts of every API address."""
    return _hosts(exchange.urls.get("api"), str(getattr(exchange, "hostname", "") or ""))


def production_hosts(exchange: Any, *, own_only: bool = False) -> set[str]:
    """Return the hosts of the present addresses and of the class's own; with `own_only` the latter."""
    if not getattr(exchange, "urls", None):
        return set()
    hosts = set() if own_only else api_hosts(exchange)
    describe = getattr(exchange, "describe", None)
    if describe is not None:
        # The class's own addresses: constructor arguments may have replaced the instance's.
        own = describe()
        hosts |= _hosts(_dict(own.get("urls")).get("api"), str(own.get("hostname") or ""))
    return hosts


def _is_proven(exchange_id: str, exchange: Any, production: set[str]) -> bool:
    if exchange_id in _OKX:
        return _dict(getattr(exchange, "headers", None)).get(_SIMULATED) == "1"
    if exchange_id == "bitget":
        return exchange.options.get("sandboxMode") is True
    hosts = api_hosts(exchange)
    return bool(hosts) and hosts.isdisjoint(production)


def _hosts(tree: Any, hostname: str) -> set[str]:
    if isinstance(tree, Mapping):
        return {host for value in tree.values() for host in _hosts(value, hostname)}
    if isinstance(tree, list):
        return {host for value in tree for host in _hosts(value, hostname)}
    host = urlsplit(tree.replace("{hostname}", hostname)).hostname if isinstance(tree, str) else None
    return {host} if host else set()


def _moved(tree: Any, base_url: str) -> Any:
    if isinstance(tree, Mapping):
        return {name: _moved(value, base_url) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_moved(value, base_url) for value in tree]
    return base_url + urlsplit(tree).path if isinstance(tree, str) else tree


def _dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
