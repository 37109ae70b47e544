"""The indexes against everything that can happen to them: kills, damage, company."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest

from workingpapers.hub.hub import Hub
from workingpapers.hub.search import keeping, lock
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.search.lock import Busy, locked
from workingpapers.hub.search.meaning import Meaning
from workingpapers.hub.search.words import Broken, Words
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import outbox


@pytest.fixture
def settings(tmp_path):
    """Beside SQLite: on PostgreSQL there is no folder (test_search_postgres.py)."""
    return Settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}")


@pytest.fixture
def opened(settings, bare, hashing):
    """Opens the hub again and again, as processes do."""
    hubs = []

    def open_again(encoder=None):
        hubs.append(Hub.open(settings, bare, encoder or (lambda: hashing)))
        return hubs[-1]

    yield open_again
    for hub in hubs:
        hub.close()


def titles(hub, query):
    return [entry.paper.title.split()[0] for entry in hub.search(query).entries]


def pending(hub):
    with hub._store.reading() as db:
        return outbox.pending(db)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Words, "update"),
        (outbox, "drop_stale"),
        (outbox, "done"),
        (outbox, "store"),
        (Meaning, "add"),
        (Meaning, "save"),
        (keeping.State, "write"),
        (outbox, "forget_other_models"),
    ],
)
def test_a_kill_at_any_point_loses_no_update(opened, papers, killed_while_adding, target, name):
    hub = opened()
    hub.add(papers[:3])
    change = replace(papers[0], title="Thermoses at rest")
    killed_while_adding(hub, [change, *papers[3:]], target, name)
    again = opened()
    for word in ("Thermoses", "Kettles", "Samovars", "Spoons", "Saucers"):
        again.index()
        assert titles(again, word)[:1] == [word]
    assert "Teapots" not in titles(again, '"teapots at"')
    assert pending(again) == 0
    with again._store.reading() as db:
        assert len(outbox.vectors_after(db, "hashing@1", 0, 10)) == 5


def test_a_search_brings_in_what_a_kill_left_waiting(opened, papers, monkeypatch):
    hub = opened()
    hub.add(papers[:1])
    with monkeypatch.context() as patched:
        patched.setattr(Hub, "index", lambda *_: "")
        hub.add(papers[1:2])
    assert pending(hub) == 1
    assert titles(opened(), "kettles")[0] == "Kettles"
    assert pending(hub) == 0


def test_too_many_late_changes_are_left_to_others_and_told(opened, papers, monkeypatch):
    hub = opened()
    hub.add(papers[:1])
    monkeypatch.setattr("workingpapers.hub.search.asking.MANY", 2)
    with monkeypatch.context() as patched:
        patched.setattr(Hub, "index", lambda *_: "")
        hub.add(papers[1:])
    assert "still being indexed" in hub.search("teapots").note
    hub.index()
    assert hub.search("kettles").note == ""


def newest(settings, pattern):
    (found,) = (settings.home / "index").glob(pattern)
    return found


def damage_state(settings):
    (settings.home / "index" / "state.json").write_text("{")


def damage_words(settings):
    for path in newest(settings, "words-*").glob("*"):
        path.write_bytes(b"no index")


def lose_words(settings):
    shutil.rmtree(newest(settings, "words-*"))


def damage_meaning(settings):
    path = newest(settings, "meaning-*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)


def lose_meaning(settings):
    newest(settings, "meaning-*").unlink()


def lose_all(settings):
    shutil.rmtree(settings.home / "index")


def another_format(settings):
    path = settings.home / "index" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def anothers_index(settings):
    path = settings.home / "index" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hub": "somebody else's"}))


DAMAGES = [
    damage_state, damage_words, lose_words, damage_meaning, lose_meaning, lose_all, another_format,
    anothers_index,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_anew_at_the_next_start(opened, papers, settings, damage):
    opened().add(papers)
    damage(settings)
    again = opened()
    again.index()
    results = again.search("samovars")
    assert results.entries[0].paper.title == "Samovars at rest"
    assert (results.meaning, results.note) == (True, "")


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not anothers_index])
def test_a_damaged_index_is_made_anew_by_the_first_search(opened, papers, settings, damage):
    opened().add(papers)
    damage(settings)
    results = opened().search("samovars")
    assert results.entries[0].paper.title == "Samovars at rest"
    assert results.meaning
    assert damage in (damage_meaning, lose_meaning) or "made anew" in results.note


def test_a_large_index_is_not_made_anew_beside_a_search(opened, papers, settings, monkeypatch):
    opened().add(papers)
    lose_all(settings)
    monkeypatch.setattr("workingpapers.hub.search.asking.SMALL", 2)
    results = opened().search("samovars")
    assert results.entries == ()
    assert results.note == "There is no search index: run `papers index rebuild`."


def test_an_index_older_than_its_database_is_noticed(opened, papers, settings, tmp_path):
    """As after a folder was restored from an older copy."""
    hub = opened()
    hub.add(papers[:2])
    shutil.copytree(settings.home / "index", tmp_path / "copy")
    hub.add(papers[2:])
    hub.close()
    shutil.rmtree(settings.home / "index")
    shutil.copytree(tmp_path / "copy", settings.home / "index")
    again = opened()
    assert "damaged" in again.index()
    assert titles(again, "saucers")[0] == "Saucers"


def test_rebuilding_encodes_nothing_twice(opened, papers, hashing):
    hub = opened()
    hub.add(papers)
    asked = []

    class Counting(type(hashing)):
        def encode(self, texts):
            asked.extend(texts)
            return super().encode(texts)

    again = opened(lambda: Counting())
    told = []
    assert again.rebuild_index(lambda *step: told.append(step)) == ""
    assert asked == []
    assert told == [(5, 5)]
    assert titles(again, "spoons")[0] == "Spoons"


def test_another_encoder_encodes_everything_again(opened, papers, hashing):
    opened().add(papers)

    class Other(type(hashing)):
        name, dim = "other@1", 32

    again = opened(lambda: Other())
    assert "meaning is not indexed yet" in again.search("spoons").note
    again.index()
    results = again.search("spoons")
    assert (results.meaning, results.note) == (True, "")
    with again._store.reading() as db:
        assert outbox.vector_count(db, "other@1") == 5
        assert outbox.vector_count(db, "hashing@1") == 0


def test_meaning_is_made_up_for_when_an_encoder_comes(opened, papers):
    def missing():
        raise EncoderMissing("install an encoder")

    hub = opened(missing)
    hub.add(papers)
    assert not hub.search("spoons").meaning
    assert hub.index() == "Indexed by words alone: install an encoder."
    again = opened()
    again.index()
    assert again.search("spoons").meaning


def test_texts_of_old_leave_the_graph_before_they_are_many(opened, papers, monkeypatch):
    hub = opened()
    hub.add(papers)
    for turn in range(4):
        hub.add([replace(paper, abstract=f"Turn {turn}.") for paper in papers])
    with hub._store.reading() as db:
        _, _, graph = hub._index._opened()
        assert len(graph) == 25  # the former texts are still in it, found by nobody
        assert db is not None
    assert len(titles(hub, "at rest")) == 5
    monkeypatch.setattr(keeping, "SLACK", 0)
    hub.add([replace(paper, abstract="The last turn.") for paper in papers])
    assert len(hub._index._opened()[2]) == 5


# Company


def test_a_reader_sees_what_another_process_adds(opened, papers):
    reader, writer = opened(), opened()
    writer.add(papers[:2])
    assert titles(reader, "teapots")[0] == "Teapots"
    writer.add(papers[2:])
    assert titles(reader, "samovars")[0] == "Samovars"
    writer.rebuild_index()
    assert titles(reader, "spoons")[0] == "Spoons"


def test_threads_search_while_others_write(opened, new_paper):
    hub, failures = opened(), []
    hub.add([new_paper("2401.99999", "Anchor of it all")])
    running = True

    def search():
        while running:
            try:
                assert titles(hub, "anchor")[0] == "Anchor"
            except BaseException as error:
                failures.append(error)
                return

    def write(start):
        try:
            with_others = opened()
            for number in range(start, start + 2):
                with_others.add([new_paper(f"2401.{number:05d}", f"Vessel {number}")])
        except BaseException as error:
            failures.append(error)

    readers = [Thread(target=search) for _ in range(2)]
    writers = [Thread(target=write, args=(start,)) for start in (0, 10, 20)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    running = False
    for thread in readers:
        thread.join()
    assert failures == []
    hub.index()
    assert hub.search("vessel", limit=50).total >= 6
    assert pending(hub) == 0


def test_the_lock_is_held_by_one_and_waited_for(tmp_path):
    path = tmp_path / "lock"
    with locked(path, 0):
        with pytest.raises(Busy, match="another process holds"), locked(path, 0):
            pass
        before = time.monotonic()
        with pytest.raises(Busy), locked(path, 2 * lock.PAUSE):
            pass
        assert time.monotonic() - before >= 2 * lock.PAUSE
    with locked(path, 0):
        pass


def test_a_search_does_not_wait_for_somebody_elses_indexing(opened, papers, settings, monkeypatch):
    hub = opened()
    hub.add(papers[:1])
    with monkeypatch.context() as patched:
        patched.setattr(Hub, "index", lambda *_: "")
        hub.add(papers[1:])
    with locked(settings.home / "index" / "lock", 0):
        results = hub.search("teapots")
    assert results.entries[0].paper.title == "Teapots at rest"
    assert "still being indexed" in results.note


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is nothing to kill with")
def test_a_killed_import_is_whole_when_it_is_read_again(tmp_path, opened, settings):
    """A real process, killed at several moments; then the import is simply repeated."""
    program = textwrap.dedent("""
        import sys
        from datetime import date
        from pathlib import Path
        import numpy as np
        from workingpapers.core.types import Paper
        from workingpapers.hub.hub import Hub
        from workingpapers.hub.settings import Settings

        class Flat:
            name, dim = "hashing@1", 64
            def encode(self, texts):
                return np.full((len(texts), 64), 0.125, dtype=np.float32)

        home = Path(sys.argv[1])
        def made():
            for n in range(12_000):
                yield Paper(f"arxiv:2401.{n:05d}", f"Vessel {n}", ("Ada Stone", "Bo Kettle"),
                            f"It holds {n}.", date(2024, 1, 1), "")
        with Hub.open(Settings(home, f"sqlite:///{home / 'hub.sqlite'}"), encoder=Flat) as hub:
            print("begin", flush=True)
            report = hub.add(made(), on_progress=lambda *_: print("stored", flush=True),
                             on_index=lambda *_: print("indexed", flush=True))
            print(report.new, report.changed, report.same, flush=True)
    """)
    command = [sys.executable, "-c", program, str(settings.home)]

    def run(kill_at=None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = []
            for line in process.stdout:
                lines.append(line.strip())
                if kill_at is not None and len(lines) > kill_at:
                    os.kill(process.pid, signal.SIGKILL)
                    break
            return lines

    for kill_at in (0, 1, 3, 4, 5):
        run(kill_at)
        with opened()._store.reading() as db:
            counts = db.exec_driver_sql(
                "SELECT (SELECT count(*) FROM papers), (SELECT count(*) FROM paper_authors)"
            ).one()
        assert counts[0] % 1000 == 0 and counts[1] == 2 * counts[0]
    assert sum(map(int, run()[-1].split())) == 12_000
    hub = opened()
    hub.index()
    assert pending(hub) == 0
    assert hub.search("11999").entries[0].paper.title == "Vessel 11999"
    assert len(hub._index._opened()[2]) >= 12_000


# The graph by itself


def test_the_graph_finds_what_a_full_comparison_finds(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 64))
    vectors = (centres[rng.integers(0, 60, 6_000)] + rng.standard_normal((6_000, 64))) * 20
    vectors = np.clip(np.rint(vectors), -127, 127).astype(np.int8)
    graph = Meaning(64)
    graph.add(range(6_000), vectors)
    unit = vectors / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    hits = 0
    for row in range(0, 6_000, 120):
        best = set(np.argsort(-(unit @ unit[row]))[:10].tolist())
        hits += len(best & {key for key, _ in graph.search(vectors[row].tobytes(), 10)})
    assert hits / 500 > 0.95


def test_cosines_come_with_the_keys(tmp_path):
    graph = Meaning(2)
    graph.add([7, 9], np.array([[127, 0], [90, 90]], dtype=np.int8))
    digest = graph.save(tmp_path / "graph")
    seen = Meaning(2, tmp_path / "graph", digest, view=True)
    (first, one), (second, half) = seen.search(np.array([100, 0], dtype=np.int8).tobytes(), 5)
    assert (first, second) == (7, 9)
    assert one == pytest.approx(1, abs=1e-3) and half == pytest.approx(2**-0.5, abs=1e-3)
    assert Meaning(2).search(b"\x01\x01", 5) == []
    for problem in (
        lambda: Meaning(2, tmp_path / "graph", "0" * 32),
        lambda: Meaning(3, tmp_path / "graph", digest),
        lambda: Meaning(2, tmp_path / "none", digest),
    ):
        with pytest.raises(Broken, match="the meaning index"):
            problem()
