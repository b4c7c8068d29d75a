"""JSON logs in UTC milliseconds, with secrets redacted by type and by pattern.

Modules log with `structlog.get_logger(...)` or the standard library's `logging`, the message being the
event's name; `set_up` renders every record of both, third parties' included.
"""

import logging
import logging.handlers
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
FIELDS = ("event", "account", "world", "strategy", "symbol", "client_order_id", "seq", "run_id", "version")
"""Fields that come first, in this order, when a record has them."""

_SECRET_NAME = re.compile(
    r"secret|passw|token|api_?key|apikey|signature|listen_?key|authorization|cookie|private", re.IGNORECASE
)
_SECRET_TEXT = (
    re.compile(
        r"(?i)(?<![a-z])(signature|listenkey|api_?key|secret|token|password)(=|%3d|['\"]?\s*:\s*['\"]?)[^\s&'\",}]+"
    ),
    re.compile(r"(?i)(bearer\s+)()[a-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(x-mbx-apikey['\"]?\s*[:=]\s*['\"]?)()[a-z0-9]{8,}"),
    re.compile(r"(://[^\s/:@]*:)()[^\s/@]+(?=@)"),
)
_MAX_BYTES, _KEEP = 64 * 1024 * 1024, 10


def set_up(
    *,
    level: str = "INFO",
    is_json: bool = True,
    path: Path | None = None,
    secrets: Iterable[str] = (),
    context: Mapping[str, Any] | None = None,
) -> None:
    """Send every log record to `path` (rotated) or stderr; replaces what an earlier call set up.

    `secrets` are values never to be written, `context` fields are part of every record.
    """
    hidden = sorted((text for text in secrets if len(text) >= 4), key=len, reverse=True)
    always = dict(context or {})
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        lambda _logger, _name, event: {**always, **event},
        _add_action,
        _Redactor(hidden),
        _order_fields,
    ]
    render: Processor = structlog.processors.JSONRenderer() if is_json else _render_line
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _drop_private,
            render,
        ],
    )
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=_MAX_BYTES, backupCount=_KEEP, encoding="utf-8"
        )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact(text: str, hidden: Iterable[str] = ()) -> str:
    """Return `text` without the given values and without what looks like a secret."""
    for value in hidden:
        text = text.replace(value, REDACTED)
    for pattern in _SECRET_TEXT:
        text = pattern.sub(rf"\1\2{REDACTED}", text)
    return text


class _Redactor:
    """Cuts secrets out of a record: by type, by the name of the field, by what the text looks like."""

    def __init__(self, hidden: list[str]) -> None:
        self._hidden = hidden

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return {key: self._clean(key, value) for key, value in event.items()}

    def _clean(self, key: str, value: Any) -> Any:
        if key.startswith("_"):
            return value  # structlog's own record, removed before rendering
        if isinstance(value, SecretStr) or (value and key != "action" and _SECRET_NAME.search(key)):
            return REDACTED
        if isinstance(value, Mapping):
            return {str(name): self._clean(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean("", item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return redact(str(value), self._hidden)


def _drop_private(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Leave out what libraries keep on every record for themselves, as Ray does from its import on."""
    return {key: value for key, value in event.items() if not key.startswith("_")}


def _add_action(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """WARNING and above say what to do; without an `action` of their own they point at the status."""
    if event.get("level") in {"warning", "error", "critical"}:
        event.setdefault("action", "qmtl status names the cause; docs/en/runbook/ has a page per alert")
    return event


def _order_fields(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    first = ("ts", "level", *FIELDS)
    ordered = {key: event[key] for key in first if key in event}
    if isinstance(ordered.get("ts"), str):
        ordered["ts"] = re.sub(r"(\.\d{3})\d*", r"\1", ordered["ts"])
    return ordered | {key: value for key, value in event.items() if key not in ordered}


def _render_line(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    time = str(event.get("ts", ""))[11:23]
    known = {"ts", "level", "event", "logger"}
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in known)
    return f"{time} {str(event.get('level', '')).upper():7} {event.get('event')} {rest}".rstrip()
