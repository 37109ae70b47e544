"""The energy of a stretch of code: counted where it can be, else estimated and said to be.

Source: [ours]. The paper measured a graphics card and CodeCarbon; here, in this order: the
processor's own counters (Linux, Intel and AMD), CodeCarbon where it is installed, and seconds of
processor time at an assumed power. Only the first is a measurement, of all that the machine did.
"""

import importlib
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTERS = Path("/sys/class/powercap")
WATTS_A_CORE = 5.0  # what a server's core draws at work, by order of magnitude
COUNTED = "counters of the processor"


@dataclass(slots=True)
class Energy:
    """Filled in when the block ends."""

    joules: float = 0.0
    source: str = ""

    @property
    def estimated(self) -> bool:
        """Whether the figure comes from a model instead of a counter."""
        return self.source != COUNTED


def read_counters(root: Path = COUNTERS) -> dict[str, tuple[int, int]]:
    """Microjoules of each processor package so far, and where its counter wraps around.

    Empty where there are none, or where only an administrator may read them.
    """
    found = {}
    for package in sorted(root.glob("intel-rapl:*")):
        if package.name.count(":") > 1:  # a part of a package, which holds it already
            continue
        try:
            now = int((package / "energy_uj").read_text())
            end = int((package / "max_energy_range_uj").read_text())
        except OSError:
            return {}
        found[package.name] = (now, end)
    return found


@contextmanager
def measure_energy(
    *, watts: float | int = WATTS_A_CORE, counters: Path = COUNTERS
) -> Iterator[Energy]:
    """Measure the energy of the block, or estimate it; `source` says which.

    Args:
        watts: of one core at work, for the estimate without CodeCarbon.
        counters: where the system shows the processor's counters.

    Source: [ours].

    >>> with measure_energy(watts=10) as energy:
    ...     total = sum(range(1000))
    >>> energy.joules >= 0, energy.source != ""
    (True, True)
    """
    if watts <= 0:
        raise ValueError(f"watts must be positive, got {watts}")
    energy = Energy()
    before = read_counters(counters)
    tracker = None if before else _codecarbon()
    start = time.process_time()
    try:
        yield energy
    finally:
        spent = time.process_time() - start
        if before:
            energy.source = COUNTED
            for name, (now, end) in read_counters(counters).items():
                energy.joules += (now - before[name][0]) % (end + 1) / 1e6
        elif tracker is not None:
            tracker.stop()
            energy.source = "estimate by CodeCarbon"
            energy.joules = tracker.final_emissions_data.cpu_energy * 3.6e6  # from kWh
        else:
            energy.source = f"estimate: processor seconds x {watts:g} W"
            energy.joules = spent * watts


def _codecarbon() -> Any:
    """A tracker at work, without network and files; None where CodeCarbon is not installed."""
    if importlib.util.find_spec("codecarbon") is None:
        return None
    codecarbon: Any = importlib.import_module("codecarbon")
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code="USA",  # turns energy into carbon, which is not asked for
        measure_power_secs=1,
        save_to_file=False,
        log_level="error",
        tracking_mode="process",
        allow_multiple_runs=True,
    )
    tracker.start()
    return tracker
