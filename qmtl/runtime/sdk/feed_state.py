"""The life of a feed as data."""

from enum import StrEnum

import msgspec


class FeedState(StrEnum):
    """Where a feed stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


class FeedEvent(StrEnum):
    """What moves a feed from state to state."""

    STARTED = "started"
    SHOOK_HANDS = "shook_hands"
    BROKE = "broke"
    DENIED = "denied"
    DELAY_OVER = "delay_over"
    BUDGET_SPENT = "budget_spent"
    STOPPED = "stopped"


_IDLE = {FeedEvent.STARTED: FeedState.CONNECTING, FeedEvent.STOPPED: FeedState.STOPPED}
TRANSITIONS: dict[FeedState, dict[FeedEvent, FeedState]] = {
    FeedState.IDLE: _IDLE,
    FeedState.STOPPED: _IDLE,
    FeedState.FAILED: _IDLE,
    FeedState.CONNECTING: {
        FeedEvent.SHOOK_HANDS: FeedState.OPEN,
        FeedEvent.BROKE: FeedState.BACKOFF,
        FeedEvent.DENIED: FeedState.FAILED,
        FeedEvent.STOPPED: FeedState.STOPPED,
    },
    FeedState.OPEN: {
        FeedEvent.BROKE: FeedState.BACKOFF,
        FeedEvent.DENIED: FeedState.FAILED,
        FeedEvent.STOPPED: FeedState.STOPPED,
    },
    FeedState.BACKOFF: {
        FeedEvent.DELAY_OVER: FeedState.CONNECTING,
        FeedEvent.BUDGET_SPENT: FeedState.FAILED,
        FeedEvent.STOPPED: FeedState.STOPPED,
    },
}
"""The whole life of a feed (connectors §4); an event that a state does not name changes nothing."""


class FeedCounts(msgspec.Struct):
    """What a feed met since it was made."""

    connects: int = 0
    messages: int = 0
    not_objects: int = 0
    wrong_version: int = 0
    overflows: int = 0
    handler_errors: int = 0
