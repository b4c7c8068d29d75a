"""A real `qmtl coordinator` process, its keys, and tokens for it."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.services.auth.keys import SigningKey, make_key, write_key
from qmtl.services.auth.tokens import sign_token
from tests.cli.command import start
from tests.servers import pick_port

ISSUER = "tests"


class CoordinatorProcess:
    """One coordinator in `folder`: configuration, keys, log; `kill()` and `start()` keep port and leases."""

    def __init__(self, folder: Path, dsn: str | None = None, mode: str = "jwt") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dsn = dsn or f"sqlite:///{folder / 'leases.db'}"
        self.port = pick_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key: SigningKey = make_key(SystemRandom())
        self.jwks = folder / "keys.json"
        write_key(self.key, folder / "key.pem", self.jwks)
        self.process: subprocess.Popen[str] | None = None
        auth = {"mode": mode, "issuer": ISSUER, "jwks": str(self.jwks)}
        section = {"bind": {"port": self.port}, "store": self.dsn, "auth": auth}
        logs = {"level": "DEBUG", "path": str(folder / "log.json")}
        (folder / "qmtl.yml").write_text(json.dumps({"coordinator": section, "logs": logs}), "utf-8")

    def start(self) -> dict[str, Any]:
        """Start it and return what it says once it answers."""
        self.process = start("coordinator", "--json", home=self.folder)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=60)[1]
        said: dict[str, Any] = json.loads(line)
        return said

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it in order and return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        self.process.communicate(timeout=60)
        code = self.process.returncode
        self.process = None
        return code

    def token(self, *roles: str, key: SigningKey | None = None, ttl_s: int = 600, **changed: Any) -> str:
        """A token of these roles; `changed` are claims or `audience`, `issuer` that differ."""
        known: dict[str, Any] = {"audience": ["coordinator"], "issuer": ISSUER, "subject": "worker"}
        known |= {"roles": list(roles), "worlds": "*"} | changed
        return sign_token(key or self.key, ttl_s=ttl_s, clock=SystemClock(), rng=SystemRandom(), **known)

    def headers(self, *roles: str, **changed: Any) -> dict[str, str]:
        """The Authorization header of such a token."""
        return {"Authorization": f"Bearer {self.token(*roles, **changed)}"}
