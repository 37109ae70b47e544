"""Submitting a paper: what a reader finds worth the day's edition, fetched from arXiv."""

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from workingpapers.hub.entries import Entry
from workingpapers.hub.feeds import identifiers
from workingpapers.hub.feeds.addresses import address_of
from workingpapers.hub.feeds.network import RemoteError
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.store.accounts import Account

if TYPE_CHECKING:
    from workingpapers.hub.hub import Hub


class Unreachable(RuntimeError):
    """arXiv did not answer; the message says so."""


def submit(
    hub: "Hub",
    account: Account,
    reference: str,
    today: date,
    fetch: Callable[[str], bytes] | None = None,
) -> Entry:
    """List a paper in today's edition, once.

    Args:
        hub: where to.
        account: who submits it.
        reference: an arXiv id in any form; nothing else is ever fetched.
        today: the day of the edition.
        fetch: asks arXiv; `hub.sources.web` does unless given.

    Raises:
        Mistaken: it is no arXiv id, there is no such paper, or it has been listed before.
        Unreachable: the paper is new here and arXiv does not answer.
    """
    asked = identifiers.parse(reference[:500])
    if asked is None:
        raise Mistaken("That is no arXiv number, such as 1808.00758 or hep-th/9901001.")
    entry = hub.entry(asked.paper) or _fetched(hub, asked, fetch or hub.sources.web.fetch)
    paper = entry.paper
    listed = hub.listed_on([paper.id]).get(paper.id)
    if listed or not hub.people.community.note_submission(account, paper.id):
        raise Mistaken(f"It has been listed before{f', on {listed}' if listed else ''}.")
    hub.add([paper], today)
    return hub.entry(paper.id) or entry


def _fetched(hub: "Hub", asked: identifiers.ArxivId, fetch: Callable[[str], bytes]) -> Entry:
    try:
        reading = read(fetch(address_of(asked.number)))
    except RemoteError:
        raise Unreachable("arXiv does not answer just now; please try again later.") from None
    except ValueError:
        raise Mistaken("arXiv holds no such paper.") from None
    hub.add(reading.records)
    entry = hub.entry(asked.paper)
    if entry is None:
        raise Mistaken("arXiv holds no such paper.")
    return entry
