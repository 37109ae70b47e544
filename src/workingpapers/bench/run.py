"""Runs one claim's check over its seeds, with the paper's idea and without it."""

import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from workingpapers.core import library
from workingpapers.core.codec import read_evidence, write_evidence
from workingpapers.core.types import Card, Check, Claim, Evidence, Measurement

Pair = tuple[Measurement, Measurement]  # with the idea, without it


def checks(slug: str, *, long: bool = False) -> dict[str, Check]:
    """The checks of a folder by claim key; with `long`, the longer variants that it offers."""
    module = importlib.import_module(f"workingpapers.papers.{slug}.check")
    found: dict[str, Check] = getattr(module, "LONG", {}) if long else module.CHECKS
    return found


def measure(slug: str, key: str, seed: int, long: bool = False, threads: int = 0) -> Pair:
    """Measure one seed twice. Runs in whatever process it is called in."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    check = checks(slug, long=long)[key]
    return check(seed), check(seed, ablate=True)


def run(
    card: Card,
    claim: Claim,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    long: bool = False,
    on: str | None = None,
    on_seed: Callable[[Pair], None] = lambda pair: None,
    papers: Path = library.PAPERS,
) -> Evidence:
    """Check one claim.

    Args:
        card: the paper's card.
        claim: one of its claims.
        seeds: how many seeds, from 0; the claim's own number when left out.
        jobs: how many processes; a claim whose readings are times always runs in one.
        long: use the longer variant.
        on: "ray" or "ray://host:port" to spread the seeds over a Ray cluster.
        on_seed: called with each finished seed's pair, in the order they finish.
        papers: the folder of folders, for the digest.

    Returns:
        The evidence, stamped with digest, machine and time. Nothing is written.

    Raises:
        ValueError: the check has no longer variant, or `seeds` or `jobs` is not positive.
    """
    count = claim.seeds if seeds is None else seeds
    if count < 1 or jobs < 1:
        raise ValueError(f"seeds and jobs must be positive, got {count} and {jobs}")
    if claim.key not in checks(card.slug, long=long):
        kind = "longer check" if long else "check"
        raise ValueError(f"{card.slug} has no {kind} for the claim {claim.key!r}")
    start = time.perf_counter()
    digest = library.digest(card.slug, papers)
    jobs = 1 if claim.timed else min(jobs, count)
    pairs: list[Pair] = []
    for pair in _pairs(card.slug, claim.key, count, jobs, long, on):
        on_seed(pair)
        pairs.append(pair)
    pairs.sort(key=lambda pair: pair[0].seed)
    return Evidence(
        claim=claim.key,
        runs=tuple(method for method, _ in pairs),
        ablated=tuple(twin for _, twin in pairs),
        seconds=round(time.perf_counter() - start, 1),
        sources=digest,
        recorded=date.today(),
        environment=environment(),
        protocol="long" if long else "standard",
    )


def _pairs(
    slug: str, key: str, count: int, jobs: int, long: bool, on: str | None
) -> Iterator[Pair]:
    if on is not None:
        yield from _pairs_on_ray(slug, key, count, long, on)
    elif jobs == 1:
        for seed in range(count):
            yield measure(slug, key, seed, long)
    else:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
        try:
            tasks = [pool.submit(measure, slug, key, s, long, threads) for s in range(count)]
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _pairs_on_ray(slug: str, key: str, count: int, long: bool, on: str) -> Iterator[Pair]:
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        raise ValueError("--on ray needs Ray: pip install 'workingpapers[ray]'") from None
    started = not ray.is_initialized()
    if started:
        address = on if on.startswith("ray://") else None
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=1)(measure)
        waiting = [remote.remote(slug, key, seed, long, 1) for seed in range(count)]
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done)
    finally:
        if started:
            ray.shutdown()


def environment() -> dict[str, str]:
    """The machine and the versions that a reading depends on."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def record(slug: str, evidence: Evidence, papers: Path = library.PAPERS) -> Path:
    """Put new evidence beside what is there, in place of its predecessor; returns the file.

    The order is the card's, the standard protocol before the long one.
    """
    card, path = library.card(slug, papers), library.evidence_path(slug, papers)
    kept = {(e.claim, e.protocol): e for e in read_evidence(path)}
    kept[evidence.claim, evidence.protocol] = evidence
    protocols: tuple[Literal["standard", "long"], ...] = ("standard", "long")
    order = [(claim.key, protocol) for claim in card.claims for protocol in protocols]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_evidence(path, tuple(kept[name] for name in order if name in kept))
    return path
