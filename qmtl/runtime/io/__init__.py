"""Third-party edges of history; every name loads its module on first use."""

from importlib import import_module
from typing import Any

_HOMES = {
    "qmtl.runtime.io.ccxt_fetcher": (
        "CcxtBackfillConfig",
        "CcxtOHLCVFetcher",
        "CcxtTradesConfig",
        "CcxtTradesFetcher",
    ),
    "qmtl.runtime.io.artifacts": ("ArtifactReader", "ArtifactRegistrar"),
    "qmtl.runtime.io.embedded_store": ("EmbeddedStore",),
    "qmtl.runtime.io.ccxt_live_feed": ("CcxtProConfig", "CcxtProLiveFeed"),
    "qmtl.runtime.io.leases": ("LeaseStore",),
    "qmtl.runtime.io.questdb": ("QuestDBStore",),
    "qmtl.runtime.io.rate_limiter": ("RateLimiterConfig", "get_limiter"),
    "qmtl.runtime.io.seamless_provider": ("EnhancedQuestDBProvider", "open_store"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the table above is the one list of names


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
