"""Place, print and cancel one order on Binance Spot Testnet.

Run with testnet keys in BINANCE_API_KEY and BINANCE_API_SECRET:
`python -m qmtl.examples.brokerage_demo.ccxt_binance_sandbox_demo`.
"""

from qmtl.examples.brokerage_demo.resting_order import show
from qmtl.runtime.sdk import CcxtBrokerageClient


def connect(key: str, secret: str) -> CcxtBrokerageClient:
    """Return a spot client on the testnet."""
    return CcxtBrokerageClient(
        "binance", apiKey=key, secret=secret, sandbox=True, options={"defaultType": "spot"}
    )


def main() -> int:
    """Run the demo; exit status 2 without keys."""
    return show(("BINANCE_API_KEY", "BINANCE_API_SECRET"), connect)


if __name__ == "__main__":
    raise SystemExit(main())
