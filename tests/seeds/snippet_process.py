"""Runs the snippets of a page as a reader would, in a process whose published hosts are on loopback.

Reads {"hosts": {"broker": port}, "snippets": [text], "after": [text]} from stdin; each snippet runs unchanged
in a namespace of its own, after its `before` where there is one and before its `after`. A host may be given
with the port of the page, as "localhost:8812". Every line `after` prints is the report.
"""

import ast
import asyncio
import inspect
import json
import socket
import sys
from typing import Any


def map_hosts(hosts: dict[str, int]) -> None:
    """Resolve the named hosts to their loopback ports, loopback itself as ever, and nothing else."""
    ask = socket.getaddrinfo

    def find(host: Any, port: Any, *rest: Any, **kw: Any) -> Any:
        mapped = hosts.get(f"{host}:{port}", hosts.get(host))
        if mapped is not None:
            return ask("127.0.0.1", mapped, *rest, **kw)
        if host in {"127.0.0.1", "localhost", "::1", None}:
            return ask(host, port, *rest, **kw)
        raise OSError(f"{host} is no host of this page")

    socket.getaddrinfo = find


async def main() -> None:
    work = json.load(sys.stdin)
    map_hosts(work["hosts"])
    before = work.get("before") or [""] * len(work["snippets"])
    for number, parts in enumerate(zip(before, work["snippets"], work["after"], strict=True)):
        space: dict[str, Any] = {"__name__": f"snippet_{number}"}
        for part in parts:
            # `await` at the top level is what the page writes; notebooks allow it too.
            code = compile(part, f"snippet {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, space)
            if inspect.isawaitable(result):
                await result


asyncio.run(main())
