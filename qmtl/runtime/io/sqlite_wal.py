"""Putting a SQLite file that several processes may open for the first time into WAL mode."""

import sqlite3
import threading

_ATTEMPTS = 200
_PAUSE_S = 0.02


def enter_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL; sqlite3.OperationalError when others keep the file busy for some seconds.

    The switch does not wait for whoever switches at the same moment as other statements do: it is refused.
    """
    pause = threading.Event()
    for attempt in range(_ATTEMPTS):
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or attempt == _ATTEMPTS - 1:
                raise
        pause.wait(_PAUSE_S)
