"""What Prometheus reads: requests by route and status, searches, queues, and how far search lags.

Each process counts its own requests. What is in the database is looked up when it is asked for.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workingpapers.hub.health import State
from workingpapers.hub.web.watch import Seen

KIND = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counts of one application. Threads may share it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "workingpapers_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "workingpapers_request_seconds",
            "Time to answer, live pages left out",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._searches = Histogram(
            "workingpapers_search_seconds",
            "Time that the search engine took",
            buckets=SECONDS,
            registry=self._registry,
        )

    def count(self, seen: Seen) -> None:
        """Count one request."""
        self._requests.labels(seen.method, seen.route, str(seen.status)).inc()
        if not seen.route.endswith("/events"):  # they last as long as somebody looks
            self._seconds.labels(seen.route).observe(seen.seconds)

    def searched(self, seconds: float) -> None:
        """Count one search."""
        self._searches.observe(seconds)

    def watch(self, look: Callable[[], State]) -> None:
        """Tell of the hub as well."""
        self._registry.register(_Of(look))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Of(Collector):
    """The state of a hub as gauges."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        """Nothing, or registering it would look into the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges; where the database does not answer, only that it does not."""
        state = self._look()
        yield _gauge("database_up", "Whether the database answers", int(state.database))
        yield _gauge("disk_free_bytes", "Room left where the hub keeps its things", state.disk_free)
        for name, about, value in (
            ("papers", "Papers held", state.papers),
            ("index_behind", "Changes that search does not know yet", state.index_behind),
            ("migration_step", "The last migration that has run", state.step),
            ("worker_up", "Whether a worker was there a moment ago", state.worker),
            ("sources", "Sources that are read by themselves", state.sources),
            ("sources_failing", "Sources whose last run failed", state.sources_failing),
        ):
            if value is not None:
                yield _gauge(name, about, int(value))
        for name, about, counts in (
            ("jobs", "Jobs by state", state.jobs),
            ("letters", "Single mails by state", state.letters),
            ("deliveries", "Digests on their way by state", state.deliveries),
        ):
            made = GaugeMetricFamily(f"workingpapers_{name}", about, labels=["state"])
            for label, number in sorted(counts.items()):
                made.add_metric([label], number)
            yield made


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"workingpapers_{name}", about, value=value)
