"""The battery: every folder under papers/ passes every rule. Folders are found, not listed."""

import pytest

from workingpapers.bench import battery, run
from workingpapers.core import library


@pytest.mark.parametrize("rule", battery.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("slug", library.slugs())
def test_folder_passes(slug, rule):
    assert rule(slug) == []


def test_there_are_folders_to_test():
    assert {"attsets", "evit", "hydra"} <= set(library.slugs())


def _claims():
    return [(card, claim) for card in library.cards() for claim in card.claims if not claim.timed]


@pytest.mark.remeasure
@pytest.mark.parametrize(
    ("card", "claim"), _claims(), ids=lambda value: getattr(value, "slug", None) or value.key
)
def test_seed_0_measured_again_agrees_with_the_file(card, claim):
    """Within the spread that the seeds showed: rounding differs between processors."""
    (held,) = [
        e for e in library.evidence(card.slug) if (e.claim, e.protocol) == (claim.key, "standard")
    ]
    gains = [claim.gain(m) for m in held.runs]
    again, _ = run.measure(card.slug, claim.key, 0)
    allowed = max(max(gains) - min(gains), abs(claim.margin), 1e-6)
    assert claim.gain(again) == pytest.approx(gains[0], abs=allowed)
