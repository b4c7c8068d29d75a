"""The gateway's event stream: a feed that keeps what the events tell of queues and weights."""

from typing import Any

import structlog

from qmtl.runtime.sdk.feed import WebSocketFeed

_log = structlog.get_logger("qmtl.feed")


class WebSocketClient(WebSocketFeed):
    """A WebSocketFeed that knows the latest `queue_topics` (queue id -> topic) and `sentinel_weights`.

    Learned from the events queue_created, queue_update and sentinel_weight of a known version; the handler
    gets every message all the same. A queue that only queue_update named is its own topic.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.queue_topics: dict[str, str] = {}
        self.sentinel_weights: dict[str, float] = {}

    def _follow(self, event: str, payload: dict[str, Any]) -> None:
        if event == "queue_created":
            queue_id, topic = payload.get("queue_id"), payload.get("topic")
            if isinstance(queue_id, str) and isinstance(topic, str):
                self.queue_topics[queue_id] = topic
        elif event == "queue_update":
            queues = payload.get("queues")
            for queue in queues if isinstance(queues, list) else ():
                name = queue.get("queue") if isinstance(queue, dict) else queue
                if isinstance(name, str):
                    self.queue_topics.setdefault(name, name)
        elif event == "sentinel_weight":
            self._learn_weight(payload.get("sentinel_id"), payload.get("weight"))

    def _learn_weight(self, sentinel_id: object, weight: object) -> None:
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            _log.warning("weight is no number", sentinel=str(sentinel_id), action="keeps the one before")
        elif isinstance(sentinel_id, str):
            self.sentinel_weights[sentinel_id] = float(weight)
