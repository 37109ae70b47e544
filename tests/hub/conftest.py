"""A hub of one's own, a page of made-up papers, and an encoder that takes no time."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.entries import Shelf
from workingpapers.hub.feeds.remote import Limiter, Web
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.people import People
from workingpapers.hub.people.signing import Admitted
from workingpapers.hub.settings import Settings
from workingpapers.hub.sources.sources import Sources
from workingpapers.hub.store import subscribers

spec = importlib.util.spec_from_file_location("postgres", Path(__file__).with_name("postgres.py"))
postgres = sys.modules["postgres"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(postgres)

spec = importlib.util.spec_from_file_location(
    "mailserver", Path(__file__).with_name("mailserver.py")
)
mailserver = sys.modules["mailserver"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mailserver)

NewDatabase = Callable[..., str]


@dataclass(frozen=True)
class Made:
    """A made-up paper and the three lines that a page prints below it."""

    title: str
    abstract: str
    below: tuple[str, ...]


def sentence(subject: str) -> str:
    return (
        f"{subject} is studied here at some length, because nobody has ever asked for it. We weigh "
        "three teapots, five kettles and a samovar, and find that the lid matters more than the "
        "spout in every case but one. The remaining case is explained by a crack in the handle."
    )


MADE = tuple(
    Made(title, sentence(subject), below)
    for title, subject, below in (
        ("Teapots at Rest: A Study of Lids", "The lid", ("  • 4 authors", "·", "May 28, 2024")),
        ("Kettlenet", "The kettle", ("  • 11 authors", "·", "Apr 12")),
        ("Spouts, Handles and Cracks", "The spout", ("tealab Tea Lab", "·", "May 29 5")),
        ("Porcelain Without Kilns: Firing by Patience", "Patience", ()),
        ("One-2-3: Any Single Cup to Tea", "A cup", ("  • 7 authors", "·", "Jun 29, 2023 7")),
        ("Can a Spoon be a Sure Bet?", "A spoon", ("  • 1 authors", "·", "Dec 7 12")),
    )
)
HEADER = (
    "new",
    "Get trending papers in your email inbox!",
    "Subscribe",
    "Daily Papers",
    "byAK and the research community",
    "Dec 31",
)


def written(papers: tuple[Made, ...] = MADE, header: tuple[str, ...] = HEADER) -> str:
    """The page as a browser copies it: an empty line between all but the three lines below."""
    blocks = list(header)
    for paper in papers:
        blocks += [paper.title, paper.abstract]
        if paper.below:
            blocks.append("\n".join(paper.below))
    return "\n\n".join(blocks)


class Hashing:
    """Encodes words by their hashes: like texts get like vectors, and nothing is loaded."""

    name = "hashing@1"
    dim = 64

    def encode(self, texts):
        made = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(made, texts, strict=True):
            for word in text.lower().split():
                digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
                row[digest[0] % self.dim] += 1 if digest[1] % 2 else -1
        made[:, 0] += 0.01  # no text is a vector of zeros
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def paper(number: str, title: str = "", **more: object) -> Paper:
    """A made-up paper on arXiv."""
    values = {
        "id": f"arxiv:{number}",
        "title": title or f"Paper {number}",
        "authors": ("Ada Stone", "Bo Kettle"),
        "abstract": sentence(f"Number {number}"),
        "published": date(2024, 5, 28),
        "url": f"https://arxiv.org/abs/{number}",
    }
    return Paper(**{**values, **more})


@pytest.fixture
def page() -> Callable[..., str]:
    return written


@pytest.fixture
def made() -> tuple[Made, ...]:
    return MADE


@pytest.fixture
def new_paper() -> Callable[..., Paper]:
    return paper


@pytest.fixture
def papers(new_paper: Callable[..., Paper]) -> list[Paper]:
    """Five of them, told apart by one word."""
    names = ("Teapots", "Kettles", "Samovars", "Spoons", "Saucers")
    return [new_paper(f"2401.0000{n}", f"{name} at rest") for n, name in enumerate(names)]


@pytest.fixture
def hashing() -> Hashing:
    return Hashing()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """One PostgreSQL for all tests of this process."""
    with postgres.running() as started:
        yield started


DATABASES = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


@pytest.fixture(scope="module", params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """Which database these tests run on: all that use this, or a fixture made of it, run twice.

    `pytest -k "not postgres"` leaves the second time out.
    """
    return request.param


def addresses(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[NewDatabase]:
    numbers = count(1)
    with ExitStack() as stack:

        def new(*, empty: bool = False) -> str:
            if kind == "sqlite":
                return f"sqlite:///{folder / f'hub-{next(numbers)}.sqlite'}"
            server = request.getfixturevalue("postgresql")
            return stack.enter_context(server.database(empty=empty))

        yield new


@pytest.fixture
def new_database(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[NewDatabase]:
    """Gives the address of one more database, gone after the test."""
    yield from addresses(database, tmp_path, request)


@pytest.fixture(scope="module")
def module_database(
    database: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[NewDatabase]:
    """Gives the address of one more database, gone after the module's tests."""
    yield from addresses(database, tmp_path_factory.mktemp("databases"), request)


@pytest.fixture
def settings(tmp_path: Path, new_database: NewDatabase) -> Settings:
    return Settings(tmp_path, new_database())


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A shelf without cards: what is tested here needs none."""
    return Shelf(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def hub(settings: Settings, bare: Shelf, hashing: Hashing) -> Iterator[Hub]:
    with Hub.open(settings, bare, lambda: hashing) as opened:
        yield opened


class Killed(BaseException):
    """What a process feels when it is killed: nothing is caught, nothing is cleaned up."""


@pytest.fixture
def killed_while_adding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds papers to a hub, and dies where `target` does what `name` says."""

    def add(hub: Hub, records: list[Paper], target: object, name: str) -> None:
        def killed(*arguments: object, **more: object) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(target, name, killed)
            with pytest.raises(Killed):
                hub.add(records)

    return add


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now

    def pass_(self, **how_long):
        self.now += timedelta(**how_long)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def people(hub, clock, settings, new_paper):
    hub.add([new_paper("2401.00001"), new_paper("2401.00002")])
    hub.people = People(hub._store, settings, clock=clock)
    return hub.people


@pytest.fixture
def join(people):
    """Sign somebody in for the first time."""

    def made(name):
        letter = people.signing.ask(f"{name}@lab.example", "/")
        admitted = people.signing.by_link(letter.cookie, letter.link)
        assert isinstance(admitted, Admitted)
        account = people.community.describe(admitted.account, name, "", reading_public=False)
        return account

    return made


@pytest.fixture
def chief(people, join):
    account = join("chief")
    secret = people.signing.first_link()
    people.signing.by_first(secret, account.email)
    return people.community.named("chief")


@pytest.fixture
def new_smtp() -> Iterator[Callable[..., mailserver.Server]]:
    """Starts mail servers that take what comes, until a test tells them otherwise."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(mailserver.running(**options))


@pytest.fixture
def smtp(new_smtp: Callable[..., mailserver.Server]) -> mailserver.Server:
    """One of them."""
    return new_smtp()


@pytest.fixture
def subscribed():
    """Gives a hub confirmed readers who want the same: ("daily", "edition", "") unless told."""

    def add(hub, *names, wanted=(("daily", "edition", ""),), zone="UTC", hour=7):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        with hub._store.writing() as db:
            for name in names:
                email, key = f"{name}@lab.example", f"key-of-{name}-0123456789"
                reader = subscribers.add(db, email, key, "page", zone, hour, now)
                subscribers.confirm(db, reader.id, now)
                for cadence, kind, query in wanted:
                    subscribers.want(db, reader.id, cadence, kind, query, now)

    return add


class Recorded:
    """Servers that answer from memory; notes what they were asked, and how long one waited."""

    def __init__(self):
        self.asked, self.waited = [], []
        self.answer = lambda url, headers: httpx.Response(404)

    def __call__(self, request):
        url = request.url.copy_with(host=request.headers["host"])
        self.asked.append(url)
        answer = self.answer(url, request.headers)
        if isinstance(answer, str):
            answer = answer.encode()
        if isinstance(answer, bytes):
            return httpx.Response(200, stream=httpx.ByteStream(answer))
        return answer

    @property
    def web(self):
        transport = httpx.MockTransport(self)
        return Web(Limiter(0), resolve=lambda *_: ["93.184.216.34"], transport=transport)


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def sources(hub, settings, clock, recorded):
    """The sources of the hub, on servers that answer from memory."""

    def made():
        fresh = Sources(
            hub._store, hub._catalog, settings.home, hub._taken_in, clock, recorded.waited.append
        )
        fresh.web = recorded.web
        return fresh

    hub.sources = made()
    hub.sources.again = made  # as another process would open them
    return hub.sources


CARD = """
paper = "arxiv:2401.00001"
title = "Of Teapots"
fields = ["tea"]
exports = ["Pot"]
source = "tealab/pots"
departures = []
limits = []
snippet = "Pot()"
[[claims]]
key = "pours"
text = "It pours."
where = "table 1"
reported = "yes"
metric = "drops"
better = "higher"
unit = "difference"
margin = 0.1
scale = "toy"
"""


@pytest.fixture
def teapots(tmp_path):
    """A method's folder beside which there is no other; `seeds` is the card's last line."""

    def made(seeds=5):
        folder = tmp_path / "papers" / "teapots"
        folder.mkdir(parents=True)
        (folder / "card.toml").write_text(f"{CARD}seeds = {seeds}\n")
        (folder / "check.py").write_text("STEPS = 1\n")
        return folder

    return made


@pytest.fixture
def new_app(tmp_path):
    """Serve a page with these papers, of a hub on SQLite that readers reach over https."""
    base = "https://papers.example"
    with ExitStack() as stack:

        def made(*papers):
            (tmp_path / "papers").mkdir(exist_ok=True)
            settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}", base_url=base)
            app = create_app(settings, tmp_path / "papers", fill=False)
            stack.enter_context(TestClient(app, base_url=base))
            app.state.hub.add(list(papers), date(2026, 1, 1))
            return app

        yield made
