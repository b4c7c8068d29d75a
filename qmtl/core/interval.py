"""Bar intervals: names and lengths."""

_SECOND = 1_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

INTERVAL_MS: dict[str, int] = {
    "1s": _SECOND,
    "5s": 5 * _SECOND,
    "10s": 10 * _SECOND,
    "15s": 15 * _SECOND,
    "30s": 30 * _SECOND,
    "1m": _MINUTE,
    "3m": 3 * _MINUTE,
    "5m": 5 * _MINUTE,
    "15m": 15 * _MINUTE,
    "30m": 30 * _MINUTE,
    "1h": _HOUR,
    "2h": 2 * _HOUR,
    "4h": 4 * _HOUR,
    "6h": 6 * _HOUR,
    "8h": 8 * _HOUR,
    "12h": 12 * _HOUR,
    "1d": _DAY,
    "3d": 3 * _DAY,
    "1w": 7 * _DAY,
}
"""Length of every interval the platform knows, in milliseconds."""

DAY_MS = _DAY
FUNDING_MS = 8 * _HOUR
"""USDT-margined perpetuals settle funding at 00:00, 08:00 and 16:00 UTC."""


def parse_interval(text: str) -> int:
    """Return the length of interval `text` ("1m", "4h") in milliseconds; ValueError lists the known."""
    try:
        return INTERVAL_MS[text]
    except KeyError:
        message = f"interval {text!r} is not known; known: {', '.join(INTERVAL_MS)}"
        raise ValueError(message) from None
