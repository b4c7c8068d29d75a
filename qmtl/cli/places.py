"""Where the parts of an account lie on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qmtl.cli.invocation import BadInputError, CommandFailedError

if TYPE_CHECKING:
    from qmtl.settings import Settings


@dataclass(frozen=True)
class Places:
    """Files of one account: its journal, control socket and token, backups."""

    account: str
    journal: Path
    socket: Path
    token: Path
    backups: Path

    @classmethod
    def of(cls, settings: "Settings", account: str | None = None) -> "Places":
        """Return the places of the configured account, or of the one named."""
        from qmtl.config import account_name

        name = account or account_name(settings)
        home = settings.journal.directory
        journal = settings.journal.path or home / f"{name}.db"
        return cls(
            account=name,
            journal=journal,
            socket=settings.control.socket or run_directory(settings) / f"{name}.sock",
            token=settings.control.token_file or run_directory(settings) / f"{name}.token",
            backups=settings.journal.backup_directory or home / "backups",
        )


def run_directory(settings: "Settings") -> Path:
    """Return where control sockets lie."""
    return settings.journal.directory / "run"


def find_socket(settings: "Settings", account: str | None) -> Path:
    """Return the control socket to talk to: the named or configured account's, else the only one there is."""
    places = Places.of(settings, account)
    if places.socket.exists():
        return places.socket
    running = sorted(run_directory(settings).glob("*.sock"))
    names = ", ".join(path.stem for path in running)
    if account and running:
        raise BadInputError(f"no trader of account {account} runs here; running here: {names}")
    if settings.control.socket or not running:
        raise CommandFailedError(f"no trader of account {places.account} runs here")
    if len(running) > 1:
        raise BadInputError(f"several traders run here: {names}; name one with --account")
    return running[0]
