"""ListenKeys: who they belong to and until when, in exchange time."""

from base64 import b32encode

import msgspec

from qmtl.engine.ports import Random


class ListenKey(msgspec.Struct):
    """One listenKey of API key `owner`; `realm` is the product whose events it carries: futures or spot."""

    name: str
    owner: str
    realm: str
    expires_ms: int


class ListenKeys:
    """The active listenKeys of an exchange; one per owner and realm."""

    def __init__(self, random: Random, life_ms: int) -> None:
        self._random = random
        self._life_ms = life_ms
        self._keys: dict[str, ListenKey] = {}

    def open(self, owner: str, now_ms: int, realm: str = "futures") -> str:
        """Return the owner's active key with its life renewed, or a new one."""
        held = self.find(owner, realm)
        if held is None:
            name = b32encode(self._random.randbytes(40)).decode()
            held = self._keys[name] = ListenKey(name, owner, realm, 0)
        held.expires_ms = now_ms + self._life_ms
        return held.name

    def find(self, owner: str, realm: str = "futures") -> ListenKey | None:
        """Return the owner's active key."""
        return next((k for k in self._keys.values() if k.owner == owner and k.realm == realm), None)

    def renew(self, owner: str, now_ms: int, realm: str = "futures", name: str | None = None) -> str | None:
        """Renew the owner's key and return it; None when there is none (of that name)."""
        held = self.find(owner, realm)
        if held is None or (name is not None and name != held.name):
            return None
        held.expires_ms = now_ms + self._life_ms
        return held.name

    def close(self, owner: str, realm: str = "futures") -> str | None:
        """Forget the owner's key and return it."""
        held = self.find(owner, realm)
        return self._keys.pop(held.name).name if held is not None else None

    def get(self, name: str) -> ListenKey | None:
        """Return a key by its name."""
        return self._keys.get(name)

    def pop(self, name: str) -> ListenKey | None:
        """Forget a key by its name."""
        return self._keys.pop(name, None)

    def expired(self, now_ms: int) -> list[str]:
        """Return the keys whose life is over."""
        return [key.name for key in self._keys.values() if key.expires_ms <= now_ms]

    def __contains__(self, name: object) -> bool:
        return name in self._keys
