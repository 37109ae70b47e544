"""What a check saw, in words and as a small picture: one dot per seed. Page, docs and CLI share it.

The SVG needs no style sheet and no script. Set inside a page it follows that page's `color`,
`--accent` and `--figure-font`; as a file of its own it falls back to its own values.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from statistics import median

from workingpapers.core.types import Claim, Evidence, Measurement, Verdict

WIDTH, HEIGHT = 320, 98
LEFT, RIGHT = 84, 310  # where the axis runs; row labels stand left of it
ROWS = (32.0, 65.0)  # with the idea, without it
RADIUS, STACK = 4.0, 5.5  # a dot, and how far seeds that would cover each other move apart


def wording(verdict: Verdict | None, scale: str, *, measured: bool = True) -> str:
    """Say a verdict as a reader should take it; only a void or an exact one goes without "here".

    >>> wording(Verdict.UNDECIDED, "toy"), wording(Verdict.HOLDS, "exact")
    ('undecided here', 'holds')
    >>> wording(None, "toy"), wording(None, "toy", measured=False)
    ('stale', 'unmeasured')
    """
    if verdict is None:
        return "stale" if measured else "unmeasured"
    if verdict is Verdict.VOID or scale == "exact":
        return str(verdict)
    return f"{verdict} here"


def gains(claim: Claim, runs: Iterable[Measurement]) -> tuple[float, ...]:
    """The gain of each run that has one; a NaN reading or a share of nothing has none."""
    return tuple(gain for _, gain in _by_seed(claim, runs))


def amount(claim: Claim, gain: float) -> str:
    """Write a gain with its sign: a share in per cent, a difference in the metric's own unit."""
    if claim.unit == "share":
        return f"{_digits(100 * gain)}%"
    return _digits(gain)


def spread(claim: Claim, evidence: Evidence) -> str:
    """Median and range of the gain over the seeds, in one short line."""
    found = gains(claim, evidence.runs)
    if not found:
        return "no reading"
    seeds = f"{len(found)} seed{'s' if len(found) != 1 else ''}"
    low, middle, high = (amount(claim, g) for g in (min(found), median(found), max(found)))
    return f"{middle} median, {low} to {high}, {seeds}"


def seeds_svg(claim: Claim, evidence: Evidence) -> str:
    """Draw the gain of every seed, with the paper's idea and without it, beside zero and margin."""
    rows = (_by_seed(claim, evidence.runs), _by_seed(claim, evidence.ablated))
    low, high = _domain([claim.margin, *(g for _, g in rows[0])], [g for _, g in rows[1]])

    def place(gain: float) -> float:
        return LEFT + (RIGHT - LEFT) * ((min(max(gain, low), high) - low) / (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" class="seeds" fill="currentColor" '
        'font-family="var(--figure-font, system-ui, sans-serif)" font-size="11">',
        f"<title>{escape(f'{claim.metric}: gain of each seed')}</title>",
        f"<desc>{escape(_description(claim, rows))}</desc>",
        f'<path d="M{LEFT} {HEIGHT - 16}H{RIGHT}" stroke="currentColor" stroke-opacity=".25"/>',
        *_mark(place(0.0), "0", HEIGHT - 4, 'stroke="currentColor" stroke-opacity=".55"'),
        *_mark(
            place(claim.margin),
            f"margin {amount(claim, claim.margin)}",
            11,
            'stroke="var(--accent, #0a665a)" stroke-dasharray="3 3"',
        ),
    ]
    for y, label, row in zip(ROWS, ("with the idea", "without it"), rows, strict=True):
        parts.append(f'<text x="0" y="{y + 4:g}" fill-opacity=".8">{label}</text>')
        if not row:
            parts.append(f'<text x="{LEFT}" y="{y + 4:g}" fill-opacity=".8">no reading</text>')
    for seed, gain, x, y in _spots(rows[0], place, ROWS[0]):
        parts.append(_dot(claim, seed, gain, x, y, low, high, 'fill="var(--accent, #0a665a)"'))
    hollow = 'fill="none" stroke="currentColor" stroke-width="1.25"'
    for seed, gain, x, y in _spots(rows[1], place, ROWS[1]):
        parts.append(_dot(claim, seed, gain, x, y, low, high, hollow))
    return "".join([*parts, "</svg>"])


def _by_seed(claim: Claim, runs: Iterable[Measurement]) -> list[tuple[int, float]]:
    found = []
    for run in runs:
        try:
            gain = claim.gain(run)
        except ValueError:  # a share of a baseline that is not positive
            continue
        if math.isfinite(gain):
            found.append((run.seed, gain))
    return found


def _digits(value: float) -> str:
    """Three digits at most, sign always, no exponent before a million: +0.25, +26.4, −1,234."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        text = f"{value:+.1e}"
    else:
        places = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:+,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "\N{MINUS SIGN}")


def _domain(core: Sequence[float], ablated: Sequence[float]) -> tuple[float, float]:
    """The axis: all of `core` and zero, and the ablated seeds as far as they leave room for it."""
    core, ablated = ([max(-1e15, min(g, 1e15)) for g in gains] for gains in (core, ablated))
    low, high = min(0.0, *core), max(0.0, *core)
    span = (high - low) or 1.0
    low = max(min([low, *ablated]), low - 2.5 * span)
    high = min(max([high, *ablated]), high + 2.5 * span)
    room = 0.06 * (high - low or 1.0)
    return low - room, high + room


def _description(claim: Claim, rows: Sequence[Sequence[tuple[int, float]]]) -> str:
    def listed(row: Sequence[tuple[int, float]]) -> str:
        return ", ".join(f"{amount(claim, g)} (seed {s})" for s, g in row) or "no reading"

    return (
        f"With the idea: {listed(rows[0])}. Without it: {listed(rows[1])}. "
        f"A seed counts when its gain is over {amount(claim, claim.margin)}."
    )


def _mark(x: float, label: str, y: float, stroke: str) -> list[str]:
    half = 3.4 * len(label)  # about half the label's width, to keep it inside
    middle = min(max(x, half), WIDTH - half)
    return [
        f'<path d="M{x:.1f} 16V{HEIGHT - 16}" fill="none" {stroke}/>',
        f'<text x="{middle:.1f}" y="{y:g}" text-anchor="middle" fill-opacity=".8">{label}</text>',
    ]


def _spots(
    row: Sequence[tuple[int, float]], place: Callable[[float], float], y: float
) -> list[tuple[int, float, float, float]]:
    """Seed, gain and place of each dot; dots that would cover each other are stacked."""
    taken: list[tuple[float, float]] = []
    spots = []
    for seed, gain in sorted(row, key=lambda pair: pair[1]):
        x = place(gain)
        levels = (y, y - STACK, y + STACK, y - 2 * STACK, y + 2 * STACK)
        free = (
            level
            for level in levels
            if all(abs(x - ox) > 2 * RADIUS or abs(level - oy) >= STACK for ox, oy in taken)
        )
        spot = next(free, y)
        taken.append((x, spot))
        spots.append((seed, gain, x, spot))
    return spots


def _dot(
    claim: Claim, seed: int, gain: float, x: float, y: float, low: float, high: float, paint: str
) -> str:
    title = f"<title>seed {seed}: {amount(claim, gain)}</title>"
    if low <= gain <= high:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:g}" {paint}>{title}</circle>'
    tip = -RADIUS if gain < low else RADIUS  # off the picture: an arrow at its edge
    points = f"{x + tip:.1f},{y:.1f} {x - tip:.1f},{y - RADIUS:.1f} {x - tip:.1f},{y + RADIUS:.1f}"
    return f'<polygon points="{points}" {paint}>{title}</polygon>'
