"""What strategy authors import; every name loads its module on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # What a checker reads of the names a strategy class is written with; the rest are Any to it.
    from qmtl.runtime.sdk.bars import Bars as Bars
    from qmtl.runtime.sdk.condition_set import ConditionSet as ConditionSet
    from qmtl.runtime.sdk.param import Param as Param
    from qmtl.runtime.sdk.param import ParameterError as ParameterError
    from qmtl.runtime.sdk.param import StrategyError as StrategyError
    from qmtl.runtime.sdk.signals import Signals as Signals
    from qmtl.runtime.sdk.signals import SignalsError as SignalsError
    from qmtl.runtime.sdk.strategy import Strategy as Strategy

_HOMES = {
    "qmtl.core.event": ("BarClosed", "OrderFilled", "PriceUpdated"),
    "qmtl.core.order": (
        "BrokerageError",
        "OrderIntent",
        "OrderStatus",
        "OrderType",
        "OrderValidationError",
        "PositionSide",
        "Side",
        "TimeInForce",
    ),
    "qmtl.engine.journal": ("IntentJournal", "JournalError"),
    "qmtl.runtime.sdk.activation": ("ActivationManager",),
    "qmtl.runtime.sdk.backoff": ("Reconnect",),
    "qmtl.runtime.sdk.bars": ("Bars",),
    "qmtl.runtime.sdk.bearer": ("TokenUnavailable",),
    "qmtl.runtime.sdk.brokerage.client": ("BrokerageClient",),
    "qmtl.runtime.sdk.brokerage.fake_client": ("FakeBrokerageClient",),
    "qmtl.runtime.sdk.brokerage.http_client": ("HttpBrokerageClient",),
    "qmtl.runtime.sdk.brokerage.ccxt_client": ("CcxtBrokerageClient",),
    "qmtl.runtime.sdk.brokerage.ccxt_futures_client": ("FuturesCcxtBrokerageClient",),
    "qmtl.runtime.sdk.brokerage.result": (
        "CancelFailed",
        "DomainViolation",
        "InstrumentBlocked",
        "OCOBothFilled",
        "OrderNotFound",
        "OrderNotSent",
        "OrderRejected",
        "OrderResult",
        "OrderUnknown",
        "RiskRefused",
        "SandboxUnavailable",
        "VenueConfigurationError",
        "VenueUnavailable",
    ),
    "qmtl.runtime.sdk.brokerage.trade_execution_service": ("TradeExecutionService",),
    "qmtl.runtime.sdk.brokerage.venue": ("BrokerageVenue",),
    "qmtl.runtime.sdk.condition_set": ("ConditionSet",),
    "qmtl.runtime.sdk.feed": ("FakeLiveDataFeed", "FeedFailed", "LiveDataFeed", "WebSocketFeed"),
    "qmtl.runtime.sdk.feed_state": ("FeedState",),
    "qmtl.runtime.sdk.node_run": ("SubmitResult",),
    "qmtl.runtime.sdk.nodes.base": ("Node",),
    "qmtl.runtime.sdk.nodes.processing": ("ProcessingNode",),
    "qmtl.runtime.sdk.nodes.publishing": ("TradeOrderPublisherNode",),
    "qmtl.runtime.sdk.nodes.sources": ("StreamInput",),
    "qmtl.runtime.sdk.param": ("Param", "ParameterError", "StrategyError"),
    "qmtl.runtime.sdk.runner": ("Runner",),
    "qmtl.runtime.sdk.signals": ("Signals", "SignalsError"),
    "qmtl.runtime.sdk.strategy": ("Strategy",),
    "qmtl.runtime.sdk.oco": ("OCOOrder",),
    "qmtl.runtime.sdk.websocket_client": ("WebSocketClient",),
}
_MODULES = ("ta",)
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME_OF, *_MODULES])  # noqa: PLE0605 - the table above is the one list of names


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
