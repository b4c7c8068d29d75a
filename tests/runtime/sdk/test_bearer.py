"""Where tokens come from, and what is never said about them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmtl.runtime.sdk.bearer import BearerToken, TokenUnavailable, parse_expiry_s
from tests.runtime.sdk.socket_server import make_jwt


async def test_a_fixed_token_is_itself() -> None:
    token = BearerToken("abc")
    assert await token.headers() == {"Authorization": "Bearer abc"}
    assert not token.is_renewable
    assert not BearerToken(None)
    assert await BearerToken(None).headers() == {}


async def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = BearerToken(f"file:{file}")
    assert token.is_renewable
    assert await token.read() == "first"
    file.write_text("second\n")
    assert await token.read() == "second"
    file.unlink()
    with pytest.raises(TokenUnavailable, match="no such secret file"):
        await token.read()


async def test_a_function_is_asked_each_time_plain_or_async() -> None:
    names = iter(["a", "b", "c"])

    async def ask() -> str:
        return next(names)

    plain, waiting = BearerToken(lambda: next(names)), BearerToken(ask)
    assert [await plain.read(), await waiting.read(), await plain.read()] == ["a", "b", "c"]


@pytest.mark.parametrize("bad", [lambda: 7, lambda: 1 / 0, lambda: "", lambda: "planted\r\nX-Evil: 1"])
async def test_a_function_that_gives_no_token_is_told_without_it(bad: Callable[[], Any]) -> None:
    with pytest.raises(TokenUnavailable, match="token: ") as caught:
        await BearerToken(bad).read()
    assert "planted" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_a_token_of_another_kind_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="token: expected text or a function, got int"):
        BearerToken(7)  # type: ignore[arg-type] # the mistake under test


@pytest.mark.parametrize(
    ("token", "expiry_s"),
    [
        (make_jwt(1_700_000_000), 1_700_000_000.0),
        (make_jwt(1.5), 1.5),
        ("opaque", None),
        ("a.b.c", None),
        ("..", None),
        ("a.W10.c", None),  # a JSON array
        (make_jwt("soon"), None),  # type: ignore[arg-type] # a claim that is no number
    ],
)
def test_the_expiry_is_read_where_there_is_one(token: str, expiry_s: float | None) -> None:
    assert parse_expiry_s(token) == expiry_s
