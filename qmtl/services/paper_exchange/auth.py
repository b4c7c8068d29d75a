"""Who asks, and whether they may: API key, HMAC-SHA256 signature, recvWindow.

Source: developers.binance.com, USDS-M futures, "General Info", endpoint security.
"""

import hmac
from collections.abc import Mapping
from enum import IntEnum
from hashlib import sha256
from urllib.parse import unquote_plus

from qmtl.services.paper_exchange.errors import VenueError, missing

_AHEAD_MS = 1_000
_MAX_RECV_WINDOW_MS = 60_000
_DEFAULT_RECV_WINDOW_MS = 5_000
_SIGNATURE = "signature="


class Security(IntEnum):
    """What a route demands: nothing, a key, or a key and a signature."""

    NONE = 0
    KEY = 1
    SIGNED = 2


def parse_params(query: str, body: str) -> dict[str, str]:
    """Return the parameters of query string and form body; the query wins, as the venue says."""
    params: dict[str, str] = {}
    for part in (body, query):
        if not part:
            continue
        for pair in part.split("&"):
            name, _, value = pair.partition("=")
            if "%" in value or "+" in value:
                value = unquote_plus(value)
            params[unquote_plus(name) if "%" in name else name] = value
    return params


def sign(secret: str, payload: str) -> str:
    """Return the hexadecimal HMAC-SHA256 of `payload`."""
    return hmac.new(secret.encode(), payload.encode(), sha256).hexdigest()


def _without_signature(part: str) -> str:
    """Cut the signature pair out, wherever it stands."""
    if _SIGNATURE not in part:
        return part
    return "&".join(pair for pair in part.split("&") if not pair.startswith(_SIGNATURE))


def check_signature(secret: str, query: str, body: str, signature: str | None) -> None:
    """Raise VenueError -1022 unless `signature` fits query string followed by body, as they were sent."""
    if not signature:
        raise missing("signature")
    payload = _without_signature(query) + _without_signature(body)
    if not hmac.compare_digest(sign(secret, payload), signature):
        raise VenueError(-1022)


def check_time(params: Mapping[str, str], now_ms: int, speed: float) -> None:
    """Raise VenueError -1021 when the request is too old or from the future, in real milliseconds.

    A difference of exchange times is divided by `speed` first.
    """
    stamp = parse_int(params, "timestamp")
    if stamp is None:
        raise missing("timestamp")
    window = parse_int(params, "recvWindow")
    if window is None:
        window = _DEFAULT_RECV_WINDOW_MS
    if not 0 < window <= _MAX_RECV_WINDOW_MS:
        raise VenueError(-1131)
    age_ms = (now_ms - stamp) / speed
    if not -_AHEAD_MS < age_ms <= window:
        raise VenueError(-1021)


def parse_int(params: Mapping[str, str], name: str) -> int | None:
    """Return a whole number, None when absent; VenueError -1100 or -1102 names what is wrong."""
    raw = params.get(name)
    if raw is None:
        return None
    if not raw:
        raise missing(name)
    try:
        return int(raw)
    except ValueError:
        raise VenueError(-1100, name=name, legal="^[0-9]{1,20}$") from None
