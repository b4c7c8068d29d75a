"""sandbox=True is a test venue or an error, and finding out contacts nobody."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from qmtl.core.order import BrokerageError
from qmtl.runtime.sdk import CcxtBrokerageClient, FuturesCcxtBrokerageClient, SandboxUnavailable
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import api_hosts
from tests.runtime.sdk.brokerage.through_ccxt.double import DoubleExchange, double_module

ccxt: Any = pytest.importorskip("ccxt.async_support")
WITHOUT = {"kraken", "coinbase", "kucoin"}
ORDER = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 1, "limit_price": 10}


@pytest.fixture
def asked(configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Hosts that were looked up; nobody answers."""
    hosts: set[str] = set()

    def refuse(host: str, *args: Any, **named: Any) -> Any:
        hosts.add(host)
        raise socket.gaierror(socket.EAI_NONAME, f"{host} is not asked in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    configure(trade_max_retries=0)
    return hosts


def production_hosts(exchange_id: str) -> set[str]:
    return api_hosts(getattr(ccxt, exchange_id)())


@pytest.mark.parametrize("exchange_id", ccxt.exchanges)
def test_19_every_exchange_is_proven_or_refused(exchange_id: str, asked: set[str]) -> None:
    try:
        client = CcxtBrokerageClient(exchange_id, sandbox=True)
    except SandboxUnavailable as error:
        told = str(error)
        client = None
    if client is None:
        assert exchange_id in told
    else:
        assert exchange_id not in WITHOUT
        assert client.reach == "sandbox"
        marked = client.exchange.headers.get("x-simulated-trading") == "1"
        if not marked and exchange_id != "bitget":
            assert api_hosts(client.exchange).isdisjoint(production_hosts(exchange_id))
    assert asked == set()


def test_19_replaced_test_addresses_are_no_proof(asked: set[str]) -> None:
    production = ccxt.binance().urls["api"]
    with pytest.raises(SandboxUnavailable):
        CcxtBrokerageClient("binance", sandbox=True, urls={"test": production})


@pytest.mark.parametrize(
    ("make", "hosts"),
    [
        (lambda: CcxtBrokerageClient("binanceusdm", sandbox=True), {"demo-fapi.binance.com"}),
        (lambda: FuturesCcxtBrokerageClient(sandbox=True), {"demo-fapi.binance.com"}),
        (lambda: CcxtBrokerageClient("binance", sandbox=True), {"testnet.binance.vision"}),
        (lambda: CcxtBrokerageClient("binance", sandbox=False, testnet=True), {"testnet.binance.vision"}),
        (lambda: CcxtBrokerageClient("binance", demo=True), {"demo-api.binance.com"}),
    ],
)
def test_20_only_the_test_hosts_are_asked(make: Callable[[], Any], hosts: set[str], asked: set[str]) -> None:
    client = make()
    assert asked == set()
    assert client.reach == "sandbox"
    with pytest.raises(BrokerageError):
        client.post_order(ORDER)
    assert asked == hosts


@pytest.mark.parametrize("kind", ["future", "swap", "delivery"])
def test_20_every_address_of_binance_contracts_is_demo(kind: str, asked: set[str]) -> None:
    client = CcxtBrokerageClient("binance", sandbox=True, options={"defaultType": kind})
    assert {host.removesuffix(".binance.com")[:5] for host in api_hosts(client.exchange)} == {"demo-"}


def test_without_sandbox_the_reach_is_live(asked: set[str]) -> None:
    assert CcxtBrokerageClient("binance").reach == "live"
    assert CcxtBrokerageClient("kraken").reach == "live"


def test_a_remote_base_url_is_no_sandbox(asked: set[str], configure: Callable[..., None]) -> None:
    configure(ccxt_base_url="https://api.example.com")
    with pytest.raises(SandboxUnavailable, match=r"api\.example\.com"):
        CcxtBrokerageClient("binance", sandbox=True)
    client = CcxtBrokerageClient("binance")
    assert (client.reach, api_hosts(client.exchange)) == ("live", {"api.example.com"})


def test_doubles_without_addresses_pass_when_their_toggle_does(
    asked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ccxt", double_module())
    spot = CcxtBrokerageClient("binance", sandbox=True)
    assert isinstance(spot.exchange, DoubleExchange)
    assert spot.exchange.calls == [("set_sandbox_mode", True)]
    futures = FuturesCcxtBrokerageClient(testnet=True)
    assert futures.exchange.calls == [("enable_demo_trading", True)]


def test_unknown_exchanges_and_a_missing_ccxt_say_so(
    asked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="'binanse'"):
        CcxtBrokerageClient("binanse")
    monkeypatch.setitem(__import__("sys").modules, "ccxt", None)
    with pytest.raises(RuntimeError, match=r"ccxt is required .*qmtl\[ccxt\]"):
        CcxtBrokerageClient("binance")
