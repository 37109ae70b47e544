"""What a reader can ask to be mailed: the edition, a topic, a search; each day or each week."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast, get_args
from zoneinfo import available_timezones

from workingpapers.hub.people import addresses
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.store import topics
from workingpapers.hub.store.subscribers import Cadence, Kind

CADENCES: Sequence[Cadence] = get_args(Cadence)
KINDS: Sequence[Kind] = get_args(Kind)
LONGEST = 250  # characters of a search or a topic
MOST = 20  # things that one subscriber can want
ZONE, HOUR = "UTC", 7  # unless the reader says otherwise


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing to be mailed."""

    cadence: Cadence
    kind: Kind
    query: str = ""  # a topic's key or the words of a search


def wish(cadence: str, kind: str, query: str = "") -> Wish:
    """A wish as it is kept.

    Raises:
        Mistaken: nothing of that kind is mailed, or not at that pace.

    >>> wish("weekly", "topic", " Vision  Transformers")
    Wish(cadence='weekly', kind='topic', query='vision transformers')
    """
    if cadence not in CADENCES:
        raise Mistaken(f"Letters come {' or '.join(CADENCES)}.")
    if kind not in KINDS:
        raise Mistaken(f"What can be mailed is of these kinds: {', '.join(KINDS)}.")
    if kind == "edition":
        return Wish(cast(Cadence, cadence), "edition")
    query = addresses.tidied(query, LONGEST + 1)
    query = topics.key(query) if kind == "topic" else query
    if not query:
        raise Mistaken(f"Which {kind}? It is empty.")
    if len(query) > LONGEST:
        raise Mistaken(f"A {kind} takes at most {LONGEST} characters.")
    return Wish(cast(Cadence, cadence), cast(Kind, kind), query)


@cache
def _every_zone() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def zones() -> tuple[str, ...]:
    """The names of time zones that a place goes by, and UTC."""
    old = ("Etc/", "SystemV/", "US/", "Brazil/", "Canada/", "Chile/", "Mexico/", "posix/", "right/")
    placed = (name for name in _every_zone() if "/" in name and not name.startswith(old))
    return (ZONE, *sorted(placed))


def known_zone(zone: str) -> str:
    """The time zone that a browser tells, or UTC where it tells none that is known."""
    return zone if zone in _every_zone() else ZONE


def checked_time(zone: str, hour: int) -> tuple[str, int]:
    """A time zone and an hour of its day.

    Raises:
        Mistaken: there is none such.
    """
    if zone not in _every_zone():
        raise Mistaken("That is no time zone, such as Europe/Paris.")
    if not 0 <= hour <= 23:
        raise Mistaken("An hour is a number from 0 to 23.")
    return zone, hour
