"""How often somebody may do something: per account, per network and per address.

Counted in the database, so that any number of processes share one count; holders are kept as
hashes, and only for as long as their window lasts.
"""

import ipaddress
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from workingpapers.hub.store import allowances
from workingpapers.hub.store.allowances import Asked
from workingpapers.hub.store.database import Store, tell, told

Holder = Literal["account", "network", "address"]
HOUR, DAY = 3600, 86_400


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many deeds in so many seconds."""

    holder: Holder
    quota: int
    seconds: int


# A laboratory may sit behind one network address, so networks get several people's share.
ACTIONS: Mapping[str, Sequence[Allowance]] = {
    "sign-in": (Allowance("network", 30, HOUR), Allowance("address", 5, HOUR)),
    "code": (Allowance("network", 60, HOUR),),
    "subscribe": (Allowance("network", 30, HOUR),),
    "letter": (Allowance("address", 1, HOUR),),  # that somebody who is not signed in asks for
    "vote": (Allowance("account", 120, 60), Allowance("network", 600, 60)),
    "comment": (Allowance("account", 30, HOUR), Allowance("network", 200, HOUR)),
    "submit": (Allowance("account", 10, DAY), Allowance("network", 100, DAY)),
    "write": (Allowance("account", 120, 60), Allowance("network", 600, 60)),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What remains of one allowance after a deed."""

    name: str
    allowance: Allowance
    remaining: int  # -1: the deed is refused
    seconds: int  # until the window ends


class Limits:
    """The allowances of one hub."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def spend(self, action: str, holders: Mapping[Holder, str]) -> list[Standing]:
        """Draw on the allowances of an action; where one is used up, on none.

        Args:
            action: one of `ACTIONS`.
            holders: who does it; allowances of holders that are not named do not count.
        """
        kinds = [kind for kind in ACTIONS[action] if holders.get(kind.holder)]
        now = self._clock()
        with self._store.writing() as db:
            salt = told(db, "limits_salt")
            if salt is None:
                tell(db, "limits_salt", salt := secrets.token_hex(16))
            asked = [
                Asked(
                    _key(salt, action, kind.holder, holders[kind.holder]), kind.quota, kind.seconds
                )
                for kind in kinds
            ]
            allowances.sweep(db, now)
            left = allowances.spend(db, asked, now)
        return [
            Standing(f"{action}-{kind.holder}", kind, item.remaining, item.seconds)
            for kind, item in zip(kinds, left, strict=True)
        ]


def _key(salt: str, *words: str) -> str:
    text = "\x00".join(words).encode("utf-8", "surrogatepass")
    return blake2b(text, key=salt.encode(), digest_size=20).hexdigest()


def network(host: str) -> str:
    """What counts as one network: an IPv4 address, or the /64 that one household gets of IPv6.

    >>> network("2001:db8::1:2"), network("::ffff:192.0.2.7"), network("testclient")
    ('2001:db8::/64', '192.0.2.7', 'testclient')
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
