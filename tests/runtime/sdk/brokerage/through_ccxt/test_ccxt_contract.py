"""The one suite over both ccxt clients, at a real exchange."""

from typing import Any

import pytest

from qmtl.runtime.sdk import CcxtBrokerageClient, FuturesCcxtBrokerageClient
from tests.runtime.sdk.brokerage.contract import BrokerageContract
from tests.runtime.sdk.brokerage.through_ccxt.conftest import KEYS, Venue

ORDER: dict[str, Any] = {"symbol": "BTC/USDT", "side": "BUY", "quantity": 0.01, "limit_price": 30_000.0}


class TestCcxt(BrokerageContract):
    order = ORDER

    @pytest.fixture
    def client(self, paper: Venue) -> Any:
        return CcxtBrokerageClient("binance", **KEYS, sandbox=True, enableRateLimit=False)


class TestFuturesCcxt(BrokerageContract):
    order = ORDER

    @pytest.fixture
    def client(self, paper: Venue) -> Any:
        return FuturesCcxtBrokerageClient(**KEYS, sandbox=True, enableRateLimit=False, hedge_mode=False)
