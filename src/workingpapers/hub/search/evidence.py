"""Filters on evidence as sets of papers: the shelf of cards is small, and no index holds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date

from workingpapers.core.types import Card
from workingpapers.hub.entries import Standing
from workingpapers.hub.search.filters import About, Scope
from workingpapers.hub.search.words import names

Cards = Mapping[str, tuple[Card, Sequence[Standing]]]


def resolved(scope: Scope, cards: Cards, today: date) -> Scope:
    """The scope with ids for what it asks of claims, and with cards' topics beside papers' own.

    All filters without a minus must hold of one and the same claim: `claim:holds scale:exact` asks
    for a claim that holds at the paper's own scale. With a minus, no claim may be like that.
    """
    named = tuple(
        replace(one, also=_with_topic(one.text, cards)) if one.part == "field" else one
        for one in scope.named
    )
    wanted = [one for one in scope.evidence if not one.negated]
    only, but = None, set[str]()
    if wanted:
        only = frozenset(i for i, held in cards.items() if _any(held, wanted, today))
    for one in scope.evidence:
        if one.negated:
            but |= {i for i, held in cards.items() if _any(held, [one], today)}
    return replace(scope, named=named, only=only, but=frozenset(but))


def _any(held: tuple[Card, Sequence[Standing]], wanted: Sequence[About], today: date) -> bool:
    """Whether some claim of a card is as wanted; a card without claims has an implementation."""
    claims = [one for one in wanted if one.values != ("implementation",)]
    return not claims or any(
        all(_FITS[one.name](one, standing, today) for one in claims) for standing in held[1]
    )


def _has(one: About, standing: Standing, today: date) -> bool:
    return "implementation" in one.values or standing.evidence is not None


def _runs_in(one: About, standing: Standing, today: date) -> bool:
    seen = standing.evidence
    return seen is not None and (seen.seconds > one.limit) is one.above


def _checked(one: About, standing: Standing, today: date) -> bool:
    seen = standing.evidence
    return seen is not None and ((today - seen.recorded).days > one.limit) is one.above


_FITS: dict[str, Callable[[About, Standing, date], bool]] = {
    "claim": lambda one, standing, today: standing.kind in one.values,
    "scale": lambda one, standing, today: standing.claim.scale in one.values,
    "has": _has,
    "runs-in": _runs_in,
    "checked": _checked,
}


def _with_topic(text: str, cards: Cards) -> frozenset[str]:
    """The papers whose cards have a topic with these words together."""
    asked = " ".join(names().analyze(text))
    return frozenset(
        paper_id
        for paper_id, (card, _) in cards.items()
        if any(f" {asked} " in f" {' '.join(names().analyze(field))} " for field in card.fields)
    )
