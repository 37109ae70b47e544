"""The formula. Pure, in constants that the page explaining it prints."""

from dataclasses import dataclass

VOTE = 1.0  # points of a vote
EVIDENCE = 2.0  # points of an implementation, or of a claim whose verdict is new or another
COMMENTS = 0.5  # exponent: the fourth comment weighs less than the first
POINTS = 0.8  # exponent: the hundredth point weighs less than the first
REST = 2.0  # hours added, so that the first minutes do not decide
GRAVITY = 1.5  # exponent: how fast a paper sinks

FORMULA = (
    f"hot = ({'votes' if VOTE == 1 else f'{VOTE:g}*votes'} + {EVIDENCE:g}*new_evidence"
    f" + comments^{COMMENTS:g})^{POINTS:g} / (hours + {REST:g})^{GRAVITY:g}"
)


@dataclass(frozen=True, slots=True)
class Signals:
    """What happened to one paper inside a window, by a moment."""

    votes: int = 0  # those that count
    evidence: int = 0
    comments: int = 0
    waiting: int = 0  # votes of young accounts that do not count yet
    own: int = 0  # votes of the paper's authors
    excluded: int = 0  # votes that a decision leaves out


def points(signals: Signals) -> float:
    """What stands above the line, before its exponent.

    >>> points(Signals(votes=12, evidence=1, comments=9))
    17.0
    """
    return VOTE * signals.votes + EVIDENCE * signals.evidence + float(signals.comments**COMMENTS)


def hot(signals: Signals, hours: float) -> float:
    """How much a paper moves.

    Args:
        signals: what counts.
        hours: since it was news; never negative.

    Raises:
        ValueError: `hours` is negative.

    >>> round(hot(Signals(votes=12, evidence=1, comments=9), 7.0), 4)
    0.3573
    """
    if hours < 0:
        raise ValueError(f"hours: expected 0 or more, got {hours}")
    return float(points(signals) ** POINTS / (hours + REST) ** GRAVITY)
