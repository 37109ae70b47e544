"""From events to signals: what counted for each paper at a moment. Pure.

Rules of votes: an account has one vote a paper, and taking it back undoes it. A vote belongs to
the moment when the account first cast it, so that casting it again does not make it new. A young
account's vote counts after a delay, an author's own never, and neither does one that a decision
leaves out; all of these are counted apart.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workingpapers.hub.store.events import Event
from workingpapers.hub.trending.score import Signals

YOUNG = timedelta(days=7)  # an account is young for so long
DELAY = timedelta(days=1)  # a young account's vote counts after so long


@dataclass(frozen=True, slots=True)
class Voter:
    """What ranking needs to know of an account."""

    created: datetime
    papers: Collection[str] = ()  # ids of those that it wrote


Excluded = Callable[[int, str], bool]  # (account, paper id): a decision leaves this vote out


@dataclass(frozen=True, slots=True)
class Counted:
    """The signals of one paper, and when evidence of it was last new."""

    signals: Signals
    evidence_at: datetime | None = None


@dataclass(slots=True)
class _Tally:
    """One paper while its events are read in order."""

    first: dict[int, datetime] = field(default_factory=dict)  # account: its first vote
    voting: set[int] = field(default_factory=set)
    said: dict[object, tuple[datetime, int | None]] = field(default_factory=dict)
    shown: set[object] = field(default_factory=set)
    news: dict[str, datetime] = field(default_factory=dict)  # claim, or "" for the card

    def take(self, event: Event) -> None:
        """Read one event."""
        detail = event.detail or {}
        match event.kind:
            case "vote" if event.account_id is not None:
                self.first.setdefault(event.account_id, event.at)
                self.voting.add(event.account_id)
            case "unvote" if event.account_id is not None:
                self.voting.discard(event.account_id)
            case "comment":
                key = detail.get("comment", event.sequence)
                self.said.setdefault(key, (event.at, event.account_id))
                self.shown.add(key)
            case "uncomment":
                self.shown.discard(detail.get("comment"))
            case "implementation":
                self.news[""] = event.at
            case "verdict":
                self.news[str(detail.get("claim"))] = event.at

    def count(
        self,
        paper_id: str,
        since: datetime,
        at: datetime,
        voters: Mapping[int, Voter],
        excluded: Excluded,
    ) -> Counted:
        """What of it counts."""
        votes = waiting = own = out = 0
        for account in self.voting:
            when, voter = self.first[account], voters.get(account)
            if when <= since:
                continue
            if excluded(account, paper_id):
                out += 1
            elif voter and paper_id in voter.papers:
                own += 1
            elif voter and when - voter.created < YOUNG and when + DELAY > at:
                waiting += 1
            else:
                votes += 1
        comments = sum(
            when > since and not (who is not None and excluded(who, paper_id))
            for when, who in (self.said[key] for key in self.shown)
        )
        news = [when for when in self.news.values() if when > since]
        signals = Signals(votes, len(news), comments, waiting, own, out)
        return Counted(signals, max(news, default=None))


def nobody_excluded(account: int, paper_id: str) -> bool:
    """No decision leaves anything out."""
    return False


def replay(
    events: Iterable[Event],
    since: datetime,
    at: datetime,
    voters: Mapping[int, Voter] | None = None,
    excluded: Excluded = nobody_excluded,
) -> dict[str, Counted]:
    """What counted for each paper at the moment `at`.

    Args:
        events: all events of the papers in question, in any order; later ones than `at` do not
            matter.
        since: what happened until then does not count.
        at: the moment.
        voters: the accounts by number; one that is missing is neither young nor an author.
        excluded: whether a decision leaves out what an account did for a paper.
    """
    tallies: dict[str, _Tally] = {}
    past = (event for event in events if event.at <= at)
    for event in sorted(past, key=lambda event: (event.at, event.sequence)):
        tallies.setdefault(event.paper_id, _Tally()).take(event)
    return {
        paper_id: tally.count(paper_id, since, at, voters or {}, excluded)
        for paper_id, tally in tallies.items()
    }
