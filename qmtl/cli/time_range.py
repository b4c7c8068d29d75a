"""Spans and moments as people write them: 90d, 2024-02-01, 2024-02-01T12:00Z."""

from datetime import UTC, datetime

from qmtl.cli.invocation import BadInputError

_SPANS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_EPOCH_DIGITS = 11
"""Whole numbers longer than this are milliseconds or finer, and units are not guessed."""


def parse_span(text: str, option: str) -> int:
    """Return the seconds of a span such as 10m, 1h, 2d or 4w."""
    number, unit = text[:-1], text[-1:]
    if unit not in _SPANS or not number.isdecimal() or not int(number):
        raise BadInputError(f"{option}: found {text!r}, expected a span such as 10m, 1h or 2d")
    return int(number) * _SPANS[unit]


def parse_moment(text: str, option: str) -> int:
    """Return epoch seconds of a date, a time (UTC unless it says otherwise) or epoch seconds themselves."""
    if text.isdecimal() and 8 < len(text) < _EPOCH_DIGITS:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        expected = "expected a time such as 2024-02-01, 2024-02-01T12:00Z or epoch seconds"
        raise BadInputError(f"{option}: found {text!r}, {expected}") from None
    at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if at < 0:
        raise BadInputError(f"{option}: found {text!r}, expected a time after 1970")
    return int(at)


def parse_range(
    since: str | None, start: str | None, end: str | None, until_s: int
) -> tuple[int, int] | None:
    """Return [start, end) of --since or --start and --end in epoch seconds, None when none was given.

    `until_s` ends what has no end of its own.
    """
    if since is not None:
        if start is not None:
            raise BadInputError("--since and --start exclude each other")
        last = until_s if end is None else parse_moment(end, "--end")
        return max(0, last - parse_span(since, "--since")), last
    if start is None:
        if end is not None:
            raise BadInputError("--end needs --start or --since")
        return None
    first = parse_moment(start, "--start")
    last = until_s if end is None else parse_moment(end, "--end")
    if first >= last:
        raise BadInputError(f"--start {start} is not before {'now' if end is None else f'--end {end}'}")
    return first, last


def show_moment(ts: int, *, seconds: bool = False) -> str:
    """Return a time in UTC as 2024-02-01 12:00."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
