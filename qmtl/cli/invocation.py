"""One run of the command line: its global options, and the only place it prints from."""

import getpass
import json
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from qmtl.config import Loaded

UNSET = object()
"""Value of an option that takes away what the configuration says."""
DONE, FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 0, 1, 2, 3, 130


class BadInputError(ValueError):
    """What was asked for cannot be done as asked; nothing was started and nothing was written."""


class CommandFailedError(RuntimeError):
    """The command was right and could not be carried out."""


@dataclass
class Invocation:
    """Global options of one run, its words as they were typed, and how to answer it."""

    is_json: bool = False
    is_quiet: bool = False
    is_verbose: bool = False
    config: str | None = None
    arguments: tuple[str, ...] = ()

    def load(self, options: Mapping[str, tuple[str, object]] | None = None) -> "Loaded":
        """Load the configuration; `options` maps --option to (key, value), None values were not given."""
        from qmtl.config import Override, load_with_sources

        given = (options or {}).items()
        return load_with_sources(
            self.config,
            overrides=tuple(
                Override(key, None if value is UNSET else value, name)
                for name, (key, value) in given
                if value is not None
            ),
        )

    def say(self, text: str) -> None:
        """Print a line for people; silent with --json and -q."""
        if not self.is_json and not self.is_quiet:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Print a line that is no result to stderr; silent with -q."""
        if not self.is_quiet:
            print(text, file=sys.stderr, flush=True)

    def answer(self, body: Mapping[str, Any], text: str) -> None:
        """Print the result: one JSON object with --json, else `text`."""
        if self.is_json:
            print(json.dumps(body, default=str), flush=True)
        elif text:
            print(text, flush=True)

    def console(self) -> "Console":
        """Return a rich console on stdout."""
        from rich.console import Console

        return Console(highlight=False)


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of opening something into bad input: exit code 2, never worth a restart."""
    try:
        yield
    except kinds as error:
        raise BadInputError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return an error as one line, secrets redacted."""
    from qmtl.logs import redact

    text = " ".join(str(error).split()) or type(error).__name__
    return redact(text)


def who_asks() -> str:
    """Return user@host of whoever runs the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def now_ms() -> int:
    """Return the machine's UTC time in milliseconds."""
    return time.time_ns() // 1_000_000


def stamp() -> str:
    """Return UTC now as it stands in file names: 20261121T120000."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")


def mint_run_id() -> str:
    """Return a random name for one run."""
    return secrets.token_hex(6)
