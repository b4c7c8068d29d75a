"""connectors.md §10 item 43: the connectors section, and no secret anywhere."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from qmtl.config import ConfigError, load
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.result import OrderRejected
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of

SECRET = "t0ken-0f-this-test"


def write(text: str) -> None:
    Path("qmtl.yml").write_text(text)


def test_43_environment_over_yml_over_default(configure: Callable[..., None]) -> None:
    write("connectors: {trade_max_retries: 7, trade_backoff: '0.5'}\n")
    assert load().connectors.trade_max_retries == 7
    assert load().connectors.trade_backoff == 0.5
    configure(QMTL_CONNECTORS__TRADE_MAX_RETRIES="3")
    assert runtime.settings().connectors.trade_max_retries == 3
    assert runtime.settings().connectors.execution_domain is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("connectors: {broker_ur: 'http://x'}", ["qmtl.yml", "broker_ur", "broker_url"]),
        ("connectors: {trade_max_retries: 11}", ["qmtl.yml", "connectors.trade_max_retries", "<= 10"]),
        ("connectors: {trade_max_retries: many}", ["connectors.trade_max_retries", "whole number"]),
        ("connectors: {execution_domain: moon}", ["connectors.execution_domain", "shadow"]),
        ("connectors: {broker_url: 'broker'}", ["connectors.broker_url", "http"]),
        ("connectors: {execution_domain: live, broker_url: 'http://far/x'}", ["broker_url", "https"]),
        ("connectors: {execution_domain: live, ws_url: 'ws://far/x'}", ["ws_url", "wss"]),
    ],
)
def test_43_bad_values_name_file_key_and_what_is_allowed(text: str, parts: list[str]) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert isinstance(caught.value, ValueError)
    for part in parts:
        assert part in str(caught.value)


def test_43_no_secret_in_repr_errors_or_logs(
    book: BookHandle,
    configure: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    configure(QMTL_CONNECTORS__BROKER_TOKEN=SECRET, QMTL_CONNECTORS__CCXT_SECRET=SECRET)
    client = client_of(book, token=SECRET)
    book.set(plan={"POST": ["401"]})
    with pytest.raises(OrderRejected) as caught:
        client.post_order(buy())
    told = [repr(runtime.settings()), repr(client), str(vars(client)), repr(caught.value), caplog.text]
    told += [*capsys.readouterr(), Path("orders.db").read_bytes().decode("latin-1")]
    assert not [text for text in told if SECRET in text]
