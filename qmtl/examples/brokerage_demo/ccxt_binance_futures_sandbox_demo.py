"""Place, print and cancel one order on Binance's futures demo trading.

Run with demo-trading keys in BINANCE_FUT_API_KEY and BINANCE_FUT_API_SECRET:
`python -m qmtl.examples.brokerage_demo.ccxt_binance_futures_sandbox_demo`.
"""

from qmtl.examples.brokerage_demo.resting_order import show
from qmtl.runtime.sdk import FuturesCcxtBrokerageClient


def connect(key: str, secret: str) -> FuturesCcxtBrokerageClient:
    """Return a futures client in demo trading, cross margin at five times."""
    return FuturesCcxtBrokerageClient(
        "binanceusdm", symbol="BTC/USDT", leverage=5, apiKey=key, secret=secret, sandbox=True
    )


def main() -> int:
    """Run the demo; exit status 2 without keys."""
    return show(("BINANCE_FUT_API_KEY", "BINANCE_FUT_API_SECRET"), connect)


if __name__ == "__main__":
    raise SystemExit(main())
