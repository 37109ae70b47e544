"""A small folder of cards and evidence, made up, in which every standing occurs once or more."""

import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from workingpapers.core import library
from workingpapers.core.codec import read_card, write_evidence
from workingpapers.core.types import Evidence, Measurement


@dataclass(frozen=True)
class Made:
    """One claim and the gains that its check is to have seen."""

    text: str
    gains: tuple[float, ...] = ()
    ablated: tuple[float, ...] = ()
    scale: str = "toy"
    unit: str = "share"
    margin: float = 0.1
    stale: bool = False


HOLDS = Made(
    "Attention pools a set of views better than mean or max pooling.",
    (0.25, 0.42, 0.29, 0.26, 0.25),
    (-0.88, -0.72, -0.81, -0.79, -0.85),
)
SAMPLE: dict[str, tuple[str, str, list[Made]]] = {
    "attsets": ("arxiv:1808.00758", "learning on sets", [
        HOLDS,
        Made("A set of one passes through unchanged, so its scores can be trained alone."),
    ]),
    "evit": ("arxiv:2202.07800", "vision transformers", [
        Made("Dropping the tokens that the class token ignores makes a vision transformer faster.",
             (0.41, 0.39, 0.43, 0.4, 0.42), (0.01, 0.0, -0.01, 0.02, 0.0), "scaled"),
        Made("Fusing the dropped tokens into one keeps more accuracy than throwing them away.",
             (0.004, -0.002, 0.011, 0.003, 0.006), (0.0, 0.001, 0.0, -0.001, 0.0), "scaled",
             "difference", 0.005),
    ]),
    "squeezeformer": ("arxiv:2206.00888", "speech recognition", [
        Made("Halving the frame rate in the middle layers costs no accuracy.",
             (-0.18, -0.22, -0.15), (0.01, 0.0, 0.02)),
    ]),
    "hydra": ("arxiv:2309.06922", "parameter-efficient fine-tuning", [
        Made("Two parallel branches adapt a model better than one.", (0.3, 0.28, 0.35),
             (0.31, 0.2, 0.3)),
    ]),
    "bone": ("arxiv:2409.15371", "parameter-efficient fine-tuning", [
        Made("Block affine updates reach a lower loss than LoRA with as many parameters.",
             (0.22, 0.31, 0.19, 0.25, 0.28), (0.02, -0.03, 0.01, 0.0, 0.02), "exact"),
        Made("It converges in fewer steps.", (0.2, 0.3, 0.25), (0.0, 0.0, 0.0), stale=True),
    ]),
}  # fmt: skip


def sample_papers(folder: Path) -> Path:
    """Write the folder; each card has a check that nobody runs, so that digests mean something."""
    for slug, (paper, field, claims) in SAMPLE.items():
        place = folder / slug
        place.mkdir(parents=True)
        (place / "check.py").write_text("STEPS = 600\n", encoding="utf-8")
        lines = [
            f"paper = {json.dumps(paper)}",
            f"title = {json.dumps(f'The paper of {slug}')}",
            f"fields = [{json.dumps(field)}]",
            'exports = ["Method"]',
            'source = "somebody/code@cfef26a (MIT), read and not copied"',
            'departures = ["`mask` is ours: it lets sets of different sizes share a batch."]',
            'limits = ["At a constant learning rate two seeds of $5$ fall short of the margin."]',
            f'snippet = """\nfrom workingpapers.papers.{slug} import Method\n\n'
            'model = Method(dim=64)\nmodel(x).shape  # (2, 64)\n"""',
        ]
        for index, made in enumerate(claims):
            key = f"claim-{index + 1}"
            lines += [
                "[[claims]]",
                f"key = {json.dumps(key)}",
                f"text = {json.dumps(made.text)}",
                'where = "table 2, row 3"',
                'reported = "IoU 0.642 on 3D-R2N2, against 0.596 for the better pooling"',
                'metric = "squared error recovering attributes from 24 noisy views"',
                'better = "lower"' if made.unit == "share" else 'better = "higher"',
                f"unit = {json.dumps(made.unit)}",
                f"margin = {made.margin}",
                f"scale = {json.dumps(made.scale)}",
                f"seeds = {max(3, len(made.gains))}",
            ]
        (place / "card.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _measure(folder, slug, claims)
    return folder


def _measure(folder: Path, slug: str, claims: list[Made]) -> None:
    card, digest = read_card(folder / slug / "card.toml"), library.digest(slug, folder)
    found = []
    for claim, made in zip(card.claims, claims, strict=True):
        if not made.gains:
            continue
        evidence = Evidence(
            claim=claim.key,
            runs=tuple(map(_run(made.unit), *zip(*enumerate(made.gains), strict=True))),
            ablated=tuple(map(_run(made.unit), *zip(*enumerate(made.ablated), strict=True))),
            seconds=43.0,
            sources="of yesterday" if made.stale else digest,
            recorded=date(2026, 11, 24),
            environment={"python": "3.11.7", "torch": "2.13.0", "threads": "2"},
        )
        found.append(evidence)
        if claim.key == "claim-1" and slug == "attsets":
            found.append(replace(evidence, protocol="long", seconds=900.0))
    write_evidence(folder / slug / "evidence.json", tuple(found))


def _run(unit: str):
    def run(seed: int, gain: float) -> Measurement:
        if unit == "difference":
            return Measurement(seed, 0.7 + gain, 0.7)
        return Measurement(seed, 1 - gain, 1.0)

    return run
