"""ccxt's own URLs pointed at a paper exchange: same paths, another host."""

from typing import Any
from urllib.parse import urlsplit

KLINE = "1m"
PERPETUAL = "BTC/USDT:USDT"
SPOT = "BTC/USDT"


def _moved(url: str, rest: str, ws: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme.startswith("ws"):
        return rest + parts.path
    # ccxt knows spot streams by the letters "/stream" that begin the venue's host name.
    return f"{ws}/stream{parts.path}" if parts.netloc.startswith("stream.") else ws + parts.path


def _move(urls: dict[str, Any], rest: str, ws: str) -> dict[str, Any]:
    return {
        name: _move(value, rest, ws) if isinstance(value, dict) else _moved(value, rest, ws)
        for name, value in urls.items()
    }


def options(where: Any, kind: str) -> dict[str, Any]:
    """Constructor options: keys, the market type, and no request throttle."""
    return {
        "apiKey": where.key,
        "secret": where.secret,
        "enableRateLimit": False,
        "options": {"defaultType": kind},
    }


def redirect(exchange: Any, where: Any) -> None:
    """Override the URLs of a ccxt exchange, nothing else."""
    exchange.urls["api"] = _move(exchange.urls["api"], where.rest, where.ws)


def code_of(error: Exception) -> int:
    """The venue's code in the text of a ccxt error: `binance {"code":-1022,"msg":…}`."""
    return int(str(error).split('"code":')[1].split(",")[0])
