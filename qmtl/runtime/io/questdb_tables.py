"""Shapes of the QuestDB tables: their statements, and what of an existing table is wrong."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qmtl.runtime.sdk.history import InvalidIdentifierError, StoreSchemaError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")


class TableShape(NamedTuple):
    """What rows of a table are, its columns as name -> type, the keys of an upsert, and its partitions."""

    holds: str
    columns: Mapping[str, str]
    keys: tuple[str, ...]
    partition: str


_PRICES = dict.fromkeys(("open", "high", "low", "close", "volume"), "DOUBLE")
BARS = TableShape(
    "bars",
    {"ts": "TIMESTAMP", "node_id": "SYMBOL", "interval_s": "INT", **_PRICES},
    ("ts", "node_id", "interval_s"),
    "DAY",
)
TRADES = TableShape(
    "trades",
    {
        "ts": "TIMESTAMP",
        "node_id": "SYMBOL",
        "trade_id": "VARCHAR",
        "trade_key": "LONG",
        "price": "DOUBLE",
        "amount": "DOUBLE",
        "side": "SYMBOL",
    },
    ("ts", "node_id", "trade_key"),
    "DAY",
)
COVERAGE = TableShape(
    "coverage",
    {
        "ts": "TIMESTAMP",
        "node_id": "SYMBOL",
        "interval_s": "INT",
        "end_s": "LONG",
        "kind": "SYMBOL",
        "checked_s": "LONG",
    },
    ("ts", "node_id", "interval_s", "kind"),
    "YEAR",
)


class Column(NamedTuple):
    """A column as QuestDB describes it."""

    name: str
    type: str
    is_key: bool


class TableState(NamedTuple):
    """A table as it is found; half-made is what QuestDB leaves when it is killed while it makes one."""

    columns: list[Column]
    is_wal: bool
    is_half_made: bool = False


def check_identifier(name: str) -> str:
    """Return `name` if it is an identifier of at most 127 characters; else InvalidIdentifierError."""
    if not _IDENTIFIER.fullmatch(name):
        raise InvalidIdentifierError(
            f"{name!r} is not a table name: letters, digits and _, no digit first, at most 127"
        )
    return name


def coverage_table(table: str) -> str:
    """Return the name of the coverage table of `table`; both are checked."""
    return check_identifier(f"{check_identifier(table)}__coverage")


def create_statement(table: str, shape: TableShape) -> str:
    """Return the statement that makes a table where it is missing."""
    columns = ", ".join(f"{name} {kind}" for name, kind in shape.columns.items())
    return (
        f'CREATE TABLE IF NOT EXISTS "{table}" ({columns}) TIMESTAMP(ts) '
        f"PARTITION BY {shape.partition} WAL DEDUP UPSERT KEYS({', '.join(shape.keys)})"
    )


def check_table(table: str, shape: TableShape, columns: Iterable[Column], *, is_wal: bool) -> None:
    """Raise StoreSchemaError with the statement that mends it unless a table is of `shape`."""
    found = {column.name: column for column in columns}
    for other in (BARS, TRADES):
        if other.holds != shape.holds and not set(other.columns) - set(found):
            raise StoreSchemaError(
                f'table "{table}" holds {other.holds}; {shape.holds} go into a table of their own (table=...)'
            )
    for name, kind in shape.columns.items():
        column = found.get(name)
        if column is None:
            _refuse(table, f"has no column {name}", f"ADD COLUMN {name} {kind}")
        elif column.type != kind:
            _refuse(table, f"has {name} as {column.type}, not {kind}", f"ALTER COLUMN {name} TYPE {kind}")
    if not is_wal:
        _refuse(table, "has no WAL (it takes a restart of QuestDB)", "SET TYPE WAL")
    if {name for name, column in found.items() if column.is_key} != set(shape.keys):
        keys = ", ".join(shape.keys)
        _refuse(table, f"does not deduplicate by ({keys})", f"DEDUP ENABLE UPSERT KEYS({keys})")


def _refuse(table: str, problem: str, mending: str) -> None:
    raise StoreSchemaError(f'table "{table}" {problem}; run: ALTER TABLE "{table}" {mending}')
