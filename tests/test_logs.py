import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from qmtl import logs

SECRET = "Zq8vT3nLw0XyR7kP"
log = logging.getLogger("qmtl.test")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    yield
    structlog.reset_defaults()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_record_is_one_json_line_with_the_fields_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trader.log"
    logs.set_up(path=path, context={"account": "desk", "run_id": "r1", "version": "0.1.0"})
    log.info("order_sent", extra={"client_order_id": "qabc", "symbol": "BTCUSDT", "quantity": 0.01})
    [record] = lines(path)
    assert list(record)[:6] == ["ts", "level", "event", "account", "symbol", "client_order_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["ts"])
    assert record["quantity"] == 0.01
    assert record["run_id"] == "r1"
    assert "action" not in record


def test_structlog_loggers_go_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path, level="INFO", context={"account": "desk"})
    logger = structlog.get_logger("qmtl.binance")
    logger.debug("too_fine")
    logger.warning("weight_high", used=0.9, api_secret=SECRET)
    [record] = lines(path)
    assert (record["event"], record["account"], record["used"]) == ("weight_high", "desk", 0.9)
    assert record["api_secret"] == logs.REDACTED
    assert record["logger"] == "qmtl.binance"
    assert record["action"]
    assert capsys.readouterr().out == ""


def test_warnings_carry_an_action(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path)
    log.warning("feed_stale", extra={"action": "wait for the refill"})
    log.error("disk_full")
    first, second = lines(path)
    assert first["action"] == "wait for the refill"
    assert "qmtl status" in second["action"]


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        (f"GET /fapi/v1/order?timestamp=1&signature={SECRET}", {}),
        ("sent", {"headers": {"X-MBX-APIKEY": SECRET, "Host": "x"}}),
        ("sent", {"url": f"wss://host/ws?listenKey={SECRET}"}),
        ("sent", {"config": {"account": [{"secret": SECRET}]}}),
        ("sent", {"value": SecretStr(SECRET)}),
        ("sent", {"note": f"Authorization: Bearer {SECRET}"}),
        ("sent", {"dsn": f"redis://user:{SECRET}@localhost:6379/0"}),
        (f"answer {{'apiKey': '{SECRET}'}}", {}),
        (f"the planted value {SECRET} alone", {}),
    ],
)
def test_secrets_never_reach_the_log(tmp_path: Path, message: str, extra: dict[str, Any]) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path, secrets=[SECRET] if "planted" in message else [])
    log.info(message, extra=extra)
    text = path.read_text("utf-8")
    assert SECRET not in text
    assert logs.REDACTED in text


def test_exceptions_are_redacted_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path)
    try:
        raise ValueError(f"bad url ?signature={SECRET}")
    except ValueError:
        log.exception("request_failed")
    [record] = lines(path)
    assert "ValueError" in record["exception"]
    assert SECRET not in str(record)


def test_ordinary_text_stays(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path)
    text = "symbol=BTCUSDT price=60000.1 status: FILLED tokens bought: none"
    log.info(text)
    assert lines(path)[0]["event"] == text


def test_text_format_and_level(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.set_up(path=path, is_json=False, level="WARNING")
    log.info("quiet")
    log.warning("loud", extra={"symbol": "BTCUSDT", "action": "none", "_kept_by_a_library": 1})
    [line] = path.read_text("utf-8").splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING loud symbol=BTCUSDT action=none", line)


@given(st.text(min_size=4, max_size=30), st.text(max_size=40), st.text(max_size=40))
def test_a_known_secret_is_cut_wherever_it_stands(secret: str, before: str, after: str) -> None:
    if secret in logs.REDACTED:
        return
    cleaned = logs.redact(before + secret + after, [secret])
    assert secret not in cleaned.replace(logs.REDACTED, "\0")
