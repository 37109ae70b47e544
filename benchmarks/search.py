"""How fast a hub searches: both engines, beside SQLite FTS5 and brute force, on one collection.

    python benchmarks/search.py --papers 10k 100k --engines embedded postgres fts5 brute \
        --keep /tmp --out search.md

Hubs are built once and kept: `KEEP/hub-100k` is the home folder of a hub on SQLite, `KEEP/hub-pg`
a PostgreSQL server with one database for each size. One user, one query after the other, warm.
Every engine is measured in a process of its own.
"""

import argparse
import json
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import server
from building import Times, fill, open_hub
from synthetic import Synthetic, queries

from workingpapers.hub.hub import Hub
from workingpapers.hub.search import encode
from workingpapers.hub.search.encoding import text
from workingpapers.hub.search.meaning import pack, unpack
from workingpapers.hub.search.query import parse
from workingpapers.hub.store import outbox

ENGINES = ("embedded", "postgres", "fts5", "brute")
SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
Row = dict[str, Any]


def synthetic(keep: Path) -> Synthetic:
    """The collection that all engines hold."""
    return Synthetic(encode.load(), kept=keep / "centres.npy")


@contextmanager
def opened(engine: str, papers: int, keep: Path) -> Iterator[tuple[Hub, Path]]:
    """A hub with so many papers, and where its notes are; built where it is missing."""
    name = measuring.short(papers)
    home = keep / f"hub-{name}" if engine == "embedded" else keep / "hub-pg" / name
    if engine == "embedded":
        with open_hub(home) as hub:
            build(hub, papers, keep, home)
            yield hub, home
        return
    (keep / "hub-pg").mkdir(parents=True, exist_ok=True)
    with server.running(keep / "hub-pg" / "data") as address:
        with open_hub(home, server.database(address, f"hub_{name}")) as hub:
            build(hub, papers, keep, home)
            yield hub, home


def build(hub: Hub, papers: int, keep: Path, home: Path) -> None:
    """Fill a hub, unless it has been filled."""
    notes = home / "built.json"
    if notes.is_file():
        return
    times = Times()
    with measuring.progress() as bars:
        bar = bars.add_task("building", total=papers)
        fill(
            hub,
            synthetic(keep),
            papers,
            times,
            lambda stage, done, total: bars.update(
                bar, description=stage, completed=done, total=total
            ),
        )
    seconds = {name: round(value, 1) for name, value in times.seconds.items()}
    notes.write_text(json.dumps(seconds | {"memory": round(measuring.memory())}), encoding="utf-8")


def hub_row(engine: str, papers: int, keep: Path, each: int) -> Row:
    """Measure one of the hub's own engines."""
    asked = [query for kind in queries(synthetic(keep), each=each).values() for query in kind]
    with opened(engine, papers, keep) as (hub, home):
        built = json.loads((home / "built.json").read_text(encoding="utf-8"))
        index, store = hub._index, hub._store

        def by(part: Callable[..., object]) -> Callable[[str], object]:
            def ask(query: str) -> object:
                with store.reading() as db:
                    return part(db, parse(query))

            return ask

        hub.search(asked[0])
        row: Row = {"build": built["import"] + built["index"], "import": built["import"]}
        row["words"] = measuring.timed(by(index.by_words), asked)
        row["meaning"] = measuring.timed(by(index.near), asked)
        server_folder = keep / "hub-pg" / "data" if engine == "postgres" else None
        before = cpu(server_folder)
        row["both"] = measuring.timed(lambda query: hub.search(query), asked, warm=0)
        row["cpu"] = 1000 * (cpu(server_folder) - before) / len(asked)
        row["recall"] = recall(hub, asked[:: max(1, len(asked) // 60)])
        row["memory"] = measuring.memory()
        if server_folder:
            row["memory"] += measuring.memory_of_server(server_folder)
    return row


def cpu(server_folder: Path | None) -> float:
    """Seconds of processor time taken so far, by this process and by the server where one is."""
    return time.process_time() + (measuring.cpu_of_server(server_folder) if server_folder else 0.0)


def vectors(hub: Hub) -> Iterator[tuple[list[str], np.ndarray]]:
    """All vectors of a hub, part by part, of length 1, `(n, dim)`."""
    model, dim, last = encode.load().name, encode.load().dim, 0
    with hub._store.reading() as db:
        while part := outbox.vectors_after(db, model, last, 20_000):
            last = part[-1].key
            rows = unpack([vector.values for vector in part], dim).astype(np.float32)
            yield (
                [vector.paper_id for vector in part],
                rows / np.linalg.norm(rows, axis=1, keepdims=True),
            )


def recall(hub: Hub, asked: list[str], first: int = 10) -> float:
    """How many of the truly nearest papers the graph finds among its first ten."""
    encoded = [unpack([pack(v)], len(v))[0] for v in encode.load().encode(asked)]
    wanted = np.stack(encoded).astype(np.float32)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    best: list[list[tuple[float, str]]] = [[] for _ in asked]
    for ids, rows in vectors(hub):
        cosines = rows @ wanted.T
        for n, mine in enumerate(best):
            top = np.argpartition(-cosines[:, n], min(first, len(ids) - 1))[:first]
            mine += [(float(cosines[i, n]), ids[i]) for i in top.tolist()]
            best[n] = sorted(mine, reverse=True)[:first]
    found = 0
    with hub._store.reading() as db:
        for query, mine in zip(asked, best, strict=True):
            near = hub._index.near(db, parse(query)) or []
            found += len({paper_id for _, paper_id in mine} & set(near[:first]))
    return found / (first * len(asked))


def fts5_row(papers: int, keep: Path, each: int) -> Row:
    """Measure SQLite's own full-text search: any word, ranked by its BM25, the title thrice."""
    made = synthetic(keep)
    place = keep / f"fts5-{measuring.short(papers)}.sqlite"
    notes = place.with_suffix(".json")
    with sqlite3.connect(place) as db:
        if not notes.is_file():
            db.execute("DROP TABLE IF EXISTS papers")
            db.execute(
                "CREATE VIRTUAL TABLE papers USING fts5(title, body, content='', "
                "tokenize='porter unicode61')"
            )
            taken = 0.0
            for batch in made.batches(papers):
                start = time.perf_counter()
                db.executemany(
                    "INSERT INTO papers (title, body) VALUES (?, ?)",
                    [
                        (p.title, f"{p.abstract} {' '.join(p.authors)} {p.organization}")
                        for p in batch.papers
                    ],
                )
                db.commit()
                taken += time.perf_counter() - start
            notes.write_text(json.dumps(taken), encoding="utf-8")

        def ask(query: str) -> object:
            words = " OR ".join(f'"{word}"' for word in parse(query).words)
            return db.execute(
                "SELECT rowid FROM papers WHERE papers MATCH ? "
                "ORDER BY bm25(papers, 3, 1) LIMIT 200",
                [words],
            ).fetchall()

        asked = [query for kind in queries(made, each=each).values() for query in kind]
        if papers > 200_000:
            asked = asked[::4]  # it takes seconds
        row = {"build": json.loads(notes.read_text(encoding="utf-8"))}
        row["words"] = measuring.timed(ask, asked, 3)
        return row | {"memory": measuring.memory()}


def brute_row(papers: int, keep: Path, each: int) -> Row:
    """Measure the comparison of a query with every vector, in numpy."""
    made = synthetic(keep)
    everything = np.empty((papers, made.dim), dtype=np.float32)
    done = 0
    for batch in made.batches(papers):
        everything[done : done + len(batch.vectors)] = batch.vectors
        done += len(batch.vectors)

    def ask(query: str) -> object:
        cosines = everything @ encode.load().encode([query])[0]
        return np.argpartition(-cosines, 200)[:200]

    asked = [query for kind in queries(made, each=each).values() for query in kind][::4]
    return {"meaning": measuring.timed(ask, asked, 3), "memory": measuring.memory()}


def encoder_line(keep: Path) -> str:
    """How fast texts are encoded for real."""
    made, encoder = synthetic(keep), encode.load()
    texts = [text(paper) for paper in made.batch(0, 10_000).papers[:200]]
    encoder.encode(texts[:20])
    start, used = time.perf_counter(), time.process_time()
    encoder.encode(texts)
    wall, used = time.perf_counter() - start, time.process_time() - used
    query = measuring.timed(lambda q: encoder.encode([q]), queries(made, each=50)["question"])
    return (
        f"Encoder: {len(texts) / wall:.0f} papers a second ({1000 * used / len(texts):.1f} ms of "
        f"processor time each); a query {' / '.join(measuring.quantiles(query))} ms."
    )


def measured(engine: str, papers: int, keep: Path, each: int, answers: Any) -> None:
    """Measure one engine; runs in a process of its own."""
    if engine == "fts5":
        answers.put(fts5_row(papers, keep, each))
    elif engine == "brute":
        answers.put(brute_row(papers, keep, each))
    else:
        answers.put(hub_row(engine, papers, keep, each))


def alone(engine: str, papers: int, keep: Path, each: int) -> Row:
    """Measure one engine in a new process, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measured, args=(engine, papers, keep, each, answers))
    process.start()
    while process.is_alive() and answers.empty():
        time.sleep(0.2)
    if answers.empty():
        raise SystemExit(f"{engine} ended with {process.exitcode}")
    row: Row = answers.get()
    process.join()
    return row


def line(papers: int, engine: str, row: Row) -> list[str]:
    """A row of the table."""
    build = f"{row['build']:.0f} s" if "build" in row else ""
    parts = [" / ".join(measuring.quantiles(row[p])) if p in row else "" for p in PARTS]
    recalled = f"{row['recall']:.3f}" if "recall" in row else ""
    cpu_time = f"{row['cpu']:.1f}" if "cpu" in row else ""
    memory = f"{row['memory']:,.0f} MB"
    return [f"{papers:,}", engine, build, memory, *parts, cpu_time, recalled]


PARTS = ("words", "meaning", "both")
HEAD = "papers|engine|build|memory|words, ms|meaning, ms|both, ms|CPU, ms|recall@10".split("|")


def main() -> None:
    """Measure what the command line asks for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--papers", nargs="+", choices=SIZES, default=["10k"])
    asked.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    asked.add_argument("--keep", type=Path, required=True, help="folder for what is built")
    asked.add_argument("--out", type=Path, help="file for the tables")
    asked.add_argument("--queries", type=int, default=100, help="of each of the three kinds")
    asked.add_argument("--build-only", action="store_true")
    options = asked.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in options.papers:
        for engine in options.engines:
            if options.build_only:
                with opened(engine, SIZES[size], options.keep):
                    continue
            row = alone(engine, SIZES[size], options.keep, options.queries)
            rows.append(line(SIZES[size], engine, row))
            measuring.err.print(" · ".join(rows[-1]))
    if rows:
        printed = f"{measuring.table(HEAD, rows)}\n\n{encoder_line(options.keep)}"
        measuring.out.print(printed, soft_wrap=True, markup=False)
        if options.out:
            options.out.write_text(printed + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
