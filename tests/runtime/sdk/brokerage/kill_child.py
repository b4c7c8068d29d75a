"""Posts given ids through a durable client and dies by SIGKILL at a given point; forks once per command.

A command is one JSON line {"url", "journal", "ids", "point", "nth"}; the answer is how the child ended.
"""

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from qmtl.core.order import BrokerageError
from qmtl.engine.journal import IntentJournal, SqliteJournal
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.http_client import HttpBrokerageClient

POINTS = (
    "commit:before",
    "commit:after",
    "record:after",
    "send:before",
    "send:after",
    "find:after",
    "report:before",
    "report:after",
)


class Trap:
    """Counts down the passes of one point, and kills at the last."""

    def __init__(self, point: str, nth: int) -> None:
        self.point, self.left = point, nth

    def pass_by(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any) -> Any:
            self.pass_by(f"{name}:before")
            answer = method(*arguments)
            self.pass_by(f"{name}:after")
            return answer

        return call

    def wrap_async(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(method)
        async def call(*arguments: Any) -> Any:
            self.pass_by(f"{name}:before")
            answer = await method(*arguments)
            self.pass_by(f"{name}:after")
            return answer

        return call


def post(url: str, journal: str, ids: list[str], point: str, nth: int) -> None:
    trap = Trap(point, nth)
    kinds: tuple[Any, ...] = (SqliteJournal, IntentJournal, HttpBrokerageClient)
    for kind, name, wrap in (
        (kinds[0], "commit", trap.wrap),
        (kinds[1], "record", trap.wrap),
        (kinds[1], "report", trap.wrap),
        (kinds[2], "_send", trap.wrap_async),
        (kinds[2], "_find", trap.wrap_async),
    ):
        setattr(kind, name, wrap(name.strip("_"), getattr(kind, name)))
    runtime.HTTP_TIMEOUT_SECONDS = 0.5
    client = HttpBrokerageClient(url, journal=journal, backoff=0.001, absence_window_s=0.02)
    for number, client_order_id in enumerate(ids):
        order = {"symbol": f"S{number}", "side": "BUY", "quantity": 1, "client_order_id": client_order_id}
        while True:
            try:
                client.post_order(order)
                break
            except ConnectionError:
                # Not sent, unknown, unreachable: whoever gave the id gives it again.
                continue


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if not child:
            try:
                post(**command)
            except BrokerageError as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
