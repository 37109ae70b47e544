"""A source in words, for the terminal and for an administrator's desk."""

from datetime import timedelta

from workingpapers.hub.store.sources import Source


def outcome(source: Source) -> str:
    """What the last run came to."""
    if source.began is None:
        return "never read"
    counts = source.counts
    told = [f"{counts.new} new", f"{counts.changed} changed", f"{counts.same} known"]
    told += [f"{counts.rejected} bad"] if counts.rejected else []
    told += [f"{counts.deleted} withdrawn there"] if counts.deleted else []
    told += ["not ended"] if source.ended is None else []
    said = ", ".join(told)
    return f"{said}; {source.error}" if source.error else said


def often(every: timedelta) -> str:
    """How often it is read.

    >>> often(timedelta(hours=6)), often(timedelta(days=1)), often(timedelta(minutes=90))
    ('every 6 h', 'every day', 'every 90 min')
    """
    minutes = int(every.total_seconds() // 60)
    if minutes % 1440 == 0:
        return "every day" if minutes == 1440 else f"every {minutes // 1440} days"
    return f"every {minutes // 60} h" if minutes % 60 == 0 else f"every {minutes} min"
