"""Reciprocal rank fusion: several rankings into one, by places alone.

Scores of different searches share no scale, so adding them lets one search drown the other.
"""

from collections.abc import Sequence

K = 10  # how flat: the second place counts 11/12 of the first; chosen by benchmarks/quality.py


def fuse(
    rankings: Sequence[Sequence[str]], weights: Sequence[float] | None = None, k: int = K
) -> list[str]:
    """Order ids by the sum of weight / (k + place) over the rankings that hold them.

    Of equals, the one that came better in any ranking goes first, then the one that the earlier
    ranking prefers.

    >>> fuse([["a", "b", "c"], ["b", "d"]])
    ['b', 'a', 'd', 'c']
    """
    scores: dict[str, float] = {}
    best: dict[str, int] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for place, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + weight / (k + place)
            best[item] = min(place, best.get(item, place))
    return sorted(scores, key=lambda item: (-scores[item], best[item]))
