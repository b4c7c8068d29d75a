"""Spans and moments as people write them."""

import pytest

from qmtl.cli.invocation import BadInputError
from qmtl.cli.time_range import parse_moment, parse_range, parse_span, show_moment

NOW = 1_740_000_000
FEBRUARY = 1_738_368_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h", 3_600), ("90d", 7_776_000), ("2w", 1_209_600), ("5s", 5)]
)
def test_spans(text: str, seconds: int) -> None:
    assert parse_span(text, "--since") == seconds


@pytest.mark.parametrize("text", ["", "d", "1", "1y", "-1d", "1.5h", "0d", "²d", "one d"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(BadInputError, match="--since: found "):
        parse_span(text, "--since")


@pytest.mark.parametrize(
    "text",
    [
        "2025-02-01",
        "2025-02-01T00:00",
        "2025-02-01 00:00:00",
        "2025-02-01T00:00Z",
        "2025-02-01T09:00+09:00",
        str(FEBRUARY),
    ],
)
def test_moments(text: str) -> None:
    assert parse_moment(text, "--start") == FEBRUARY
    assert show_moment(FEBRUARY, seconds=True) == "2025-02-01 00:00:00"


@pytest.mark.parametrize("text", ["", "now", "1738368000000", "2025-13-01", "1960-01-01", "-5"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(BadInputError, match="--start: found "):
        parse_moment(text, "--start")


def test_ranges() -> None:
    assert parse_range(None, None, None, NOW) is None
    assert parse_range("1h", None, None, NOW) == (NOW - 3_600, NOW)
    assert parse_range("1d", None, "2025-02-01", NOW) == (FEBRUARY - 86_400, FEBRUARY)
    assert parse_range(None, "2025-02-01", None, NOW) == (FEBRUARY, NOW)
    assert parse_range(None, "2025-02-01", "2025-02-02", NOW) == (FEBRUARY, FEBRUARY + 86_400)
    assert parse_range("9999w", None, None, NOW) == (0, NOW)
    for since, start, end in (
        ("1h", "2025-02-01", None),
        (None, None, "2025-02-01"),
        (None, "2025-02-02", "2025-02-01"),
    ):
        with pytest.raises(BadInputError):
            parse_range(since, start, end, NOW)
