"""A place in words and in JSON: what counted, what did not, and how the score comes out."""

from datetime import datetime

from pydantic import BaseModel

from workingpapers.hub.trending import integrity, periods, replay, score
from workingpapers.hub.trending.ranking import Ranked
from workingpapers.hub.trending.score import FORMULA, Signals
from workingpapers.hub.trending.trending import Page

EXAMPLES = (
    ("a fresh paper", Signals(votes=3), 2.0),
    ("the same a day later", Signals(votes=3), 26.0),
    ("a day old, with a new verdict", Signals(votes=3, evidence=1), 26.0),
    ("a day old, talked about", Signals(votes=12, evidence=1, comments=9), 26.0),
)


class WithheldJson(BaseModel):
    """Votes that were cast and do not count."""

    waiting: int  # of accounts too young; they count later
    own: int  # of the paper's authors
    excluded: int  # left out by a decision


class WhyJson(BaseModel):
    """Why a paper stands where it stands."""

    place: int | None  # from 1; none: it is not in this ranking
    of: int
    votes: int
    new_evidence: int
    comments: int
    points: float
    hours: float
    hot: float
    withheld: WithheldJson
    since: datetime  # what happened until then does not count
    at: datetime  # nor does what came later
    frozen: bool  # the order stands
    formula: str


class FormulaJson(BaseModel):
    """The formula, and every number in the rules around it."""

    formula: str
    vote: float
    evidence: float
    comments_exponent: float
    points_exponent: float
    hours_added: float
    gravity: float
    window_hours: dict[str, int]
    weekend_hours: int
    freeze_hour: int
    young_days: float
    delay_hours: float
    burst_votes: int
    burst_minutes: float


def as_why(one: Ranked | None, page: Page) -> WhyJson:
    """A place as the API gives it."""
    signals = one.signals if one else Signals()
    return WhyJson(
        place=one.place if one else None,
        of=page.total,
        votes=signals.votes,
        new_evidence=signals.evidence,
        comments=signals.comments,
        points=score.points(signals),
        hours=one.hours if one else 0.0,
        hot=one.hot if one else 0.0,
        withheld=WithheldJson(waiting=signals.waiting, own=signals.own, excluded=signals.excluded),
        since=page.since,
        at=page.at,
        frozen=page.frozen,
        formula=FORMULA,
    )


def as_formula(freeze_hour: int) -> FormulaJson:
    """The rules as the API gives them."""
    return FormulaJson(
        formula=FORMULA,
        vote=score.VOTE,
        evidence=score.EVIDENCE,
        comments_exponent=score.COMMENTS,
        points_exponent=score.POINTS,
        hours_added=score.REST,
        gravity=score.GRAVITY,
        window_hours=periods.HOURS,
        weekend_hours=periods.WEEKEND,
        freeze_hour=freeze_hour,
        young_days=replay.YOUNG.total_seconds() / 86400,
        delay_hours=replay.DELAY.total_seconds() / 3600,
        burst_votes=integrity.BURST,
        burst_minutes=integrity.SPAN.total_seconds() / 60,
    )


def counted(signals: Signals) -> str:
    """What counted, in words.

    >>> counted(Signals(votes=1, comments=4))
    '1 vote, 4 comments'
    >>> counted(Signals())
    'nothing yet'
    """
    said = []
    if signals.votes:
        said.append(_many(signals.votes, "vote", "votes"))
    if signals.evidence:
        said.append(_many(signals.evidence, "new piece of evidence", "new pieces of evidence"))
    if signals.comments:
        said.append(_many(signals.comments, "comment", "comments"))
    return ", ".join(said) or "nothing yet"


def withheld(signals: Signals) -> str:
    """What did not count, in words; empty where all did.

    >>> withheld(Signals(waiting=1, own=2))
    '1 vote of an account too young, 2 votes of the authors'
    """
    said = []
    if signals.waiting:
        said.append(
            _many(signals.waiting, "vote of an account too young", "votes of accounts too young")
        )
    if signals.own:
        said.append(_many(signals.own, "vote of the authors", "votes of the authors"))
    if signals.excluded:
        said.append(
            _many(signals.excluded, "vote left out by a decision", "votes left out by a decision")
        )
    return ", ".join(said)


def reckoned(signals: Signals, hours: float) -> str:
    """The formula with its numbers put in.

    >>> reckoned(Signals(votes=12, evidence=1, comments=9), 7.0)
    '(12 + 2·1 + √9)^0.8 / (7 + 2)^1.5 = 17^0.8 / 9^1.5 = 0.357'
    """
    above = f"{signals.votes} + {score.EVIDENCE:g}·{signals.evidence} + √{signals.comments}"
    if score.VOTE != 1:
        above = f"{score.VOTE:g}·{above}"
    if score.COMMENTS != 0.5:
        above = above.replace("√", "") + f"^{score.COMMENTS:g}"
    points, old = score.points(signals), hours + score.REST
    top, bottom = f"^{score.POINTS:g}", f"^{score.GRAVITY:g}"
    return (
        f"({above}){top} / ({round(hours, 1):g} + {score.REST:g}){bottom}"
        f" = {points:.3g}{top} / {round(old, 1):g}{bottom} = {score.hot(signals, hours):.3g}"
    )


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
