import sys
import types

import pytest

from workingpapers.papers.backprop_free import measure_energy
from workingpapers.papers.backprop_free.energy import COUNTED, read_counters


@pytest.fixture
def no_codecarbon(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def package(root, name, now, end=10_000_000):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{now}\n")
    (folder / "max_energy_range_uj").write_text(f"{end}\n")


def test_counters_of_all_packages_are_added_and_may_wrap(tmp_path):
    package(tmp_path, "intel-rapl:0", 1_000_000)
    package(tmp_path, "intel-rapl:1", 9_500_000)
    package(tmp_path, "intel-rapl:0:0", 5)  # cores, which package 0 holds already
    with measure_energy(counters=tmp_path) as energy:
        package(tmp_path, "intel-rapl:0", 3_000_000)
        package(tmp_path, "intel-rapl:1", 499_999)
    assert energy.joules == pytest.approx(2 + 1)
    assert energy.source == COUNTED and not energy.estimated


def test_counters_that_may_not_be_read_are_as_good_as_none(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    assert read_counters(tmp_path) == {}


def test_estimate_says_so_and_grows_with_work_and_watts(tmp_path, no_codecarbon):
    def spend(watts):
        with measure_energy(watts=watts, counters=tmp_path) as energy:
            sum(range(3_000_000))
        return energy

    few, many = spend(1), spend(100)
    assert many.joules > 20 * few.joules > 0
    assert few.estimated and few.source == "estimate: processor seconds x 1 W"


def test_codecarbon_is_asked_where_there_are_no_counters(tmp_path, monkeypatch):
    events = []

    class Tracker:
        def __init__(self, **how):
            assert how["save_to_file"] is False and how["tracking_mode"] == "process"
            self.final_emissions_data = types.SimpleNamespace(cpu_energy=2e-6)

        def start(self):
            events.append("start")

        def stop(self):
            events.append("stop")

    module = types.ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(KeyError), measure_energy(counters=tmp_path) as energy:
        events.append("work")
        raise KeyError
    assert events == ["start", "work", "stop"]
    assert energy.joules == pytest.approx(7.2)
    assert energy.source == "estimate by CodeCarbon" and energy.estimated


def test_watts_are_positive():
    with pytest.raises(ValueError, match="watts must be positive, got 0"), measure_energy(watts=0):
        pass
