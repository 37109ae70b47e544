"""Papers, their authors and their former ids, in and out of the database."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    func,
    or_,
    select,
    update,
)

from workingpapers.core.types import Paper
from workingpapers.hub.store import dialects, topics
from workingpapers.hub.store.schema import aliases, paper_authors, paper_topics, papers

T = TypeVar("T")
CHUNK = 500  # values in one IN list; SQLite of old allows 999 in a statement


def chunks(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Cut `values` into lists of at most `size`."""
    part: list[T] = []
    for value in values:
        part.append(value)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def find(db: Connection, ids: Iterable[str]) -> dict[str, Paper]:
    """The papers with these very ids."""
    found: dict[str, Paper] = {}
    for part in chunks(dict.fromkeys(ids)):
        found |= _read(db, select(papers).where(papers.c.id.in_(part)))
    return found


def known(db: Connection, ids: Iterable[str]) -> set[str]:
    """Which of these ids are papers'."""
    found: set[str] = set()
    for part in chunks(dict.fromkeys(ids)):
        found |= set(db.scalars(select(papers.c.id).where(papers.c.id.in_(part))))
    return found


def with_titles(db: Connection, keys: Iterable[str]) -> dict[str, list[Paper]]:
    """The papers with these title keys, by key."""
    found: dict[str, list[Paper]] = {}
    for part in chunks(dict.fromkeys(keys)):
        statement = select(papers).where(papers.c.title_key.in_(part)).order_by(papers.c.id)
        rows = db.execute(statement).all()
        read = _papers(db, rows)
        for row in rows:
            found.setdefault(row.title_key, []).append(read[row.id])
    return found


def renamed(db: Connection, ids: Iterable[str]) -> dict[str, str]:
    """Where these ids are former ones: the id of today, by the former."""
    found: dict[str, str] = {}
    for part in chunks(dict.fromkeys(ids)):
        rows = db.execute(
            select(aliases.c.alias, aliases.c.paper_id).where(aliases.c.alias.in_(part))
        )
        found |= {row.alias: row.paper_id for row in rows}
    return found


def save(
    db: Connection,
    made: Sequence[Paper],
    titles: Mapping[str, str],
    names: Mapping[str, str],
    now: datetime,
) -> None:
    """Write new papers and overwrite known ones.

    Args:
        db: a writing transaction.
        made: the papers, each id once.
        titles: the title key of each title.
        names: the name key of each author and organisation.
        now: what `added` and `changed` say.
    """
    if not made:
        return
    rows = [
        _row(paper, now)
        | {"title_key": titles[paper.title], "organization_key": names[paper.organization]}
        for paper in made
    ]
    dialects.put_many(db, papers, rows, replace=True, keep=("added",))
    for part in chunks(paper.id for paper in made):
        db.execute(delete(paper_authors).where(paper_authors.c.paper_id.in_(part)))
        db.execute(delete(paper_topics).where(paper_topics.c.paper_id.in_(part)))
    authors = [
        {"paper_id": paper.id, "position": n, "name": name, "name_key": names[name]}
        for paper in made
        for n, name in enumerate(paper.authors)
    ]
    dialects.put_many(db, paper_authors, authors)
    fields = [
        {"topic": topic, "paper_id": paper.id}
        for paper in made
        for topic in dict.fromkeys(map(topics.key, paper.fields))
    ]
    dialects.put_many(db, paper_topics, fields)


def rename(db: Connection, former: str, better: str) -> None:
    """Give a paper a better id. All that refers to it follows, and the former id still finds it."""
    db.execute(update(papers).where(papers.c.id == former).values(id=better))
    dialects.upsert(db, aliases, [{"alias": former, "paper_id": better}])


def count(db: Connection) -> int:
    """How many papers there are."""
    return db.scalar(select(func.count()).select_from(papers)) or 0


def last_change(db: Connection) -> datetime | None:
    """When a paper was last written; None where there are none."""
    found: datetime | None = db.scalar(select(func.max(papers.c.changed)))
    return found


def after(db: Connection, last: str, size: int) -> list[Paper]:
    """The next `size` papers by id, to walk through all of them."""
    statement = select(papers).where(papers.c.id > last).order_by(papers.c.id).limit(size)
    return list(_read(db, statement).values())


def listed(
    db: Connection,
    limit: int,
    offset: int,
    *,
    author: str | None = None,
    organization: tuple[str, str] | None = None,
    topic: tuple[str, Collection[str]] | None = None,
    since: date | None = None,
    until: date | None = None,
) -> tuple[list[Paper], int]:
    """Papers, newest first, and how many there are before `limit`.

    `author` is a name key; `organization` a slug and a name key, of which one will do; `topic` a
    key and the ids of papers that are of the topic whatever their source says; both days are
    included.
    """
    where: list[ColumnElement[bool]] = []
    if author is not None:
        theirs = select(paper_authors.c.paper_id).where(paper_authors.c.name_key == author)
        where.append(papers.c.id.in_(theirs))
    if organization is not None:
        where.append(
            or_(
                papers.c.organization_slug == organization[0],
                papers.c.organization_key == organization[1],
            )
        )
    if topic is not None:
        name, also = topic
        of_topic = select(paper_topics.c.paper_id).where(paper_topics.c.topic == name)
        where.append(or_(papers.c.id.in_(of_topic), papers.c.id.in_(list(also))))
    if since is not None:
        where.append(papers.c.published >= since)
    if until is not None:
        where.append(papers.c.published <= until)
    total = db.scalar(select(func.count()).select_from(papers).where(*where)) or 0
    statement = (
        select(papers)
        .where(*where)
        .order_by(papers.c.published.desc(), papers.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return list(_read(db, statement).values()), total


def _read(db: Connection, statement: Select[Any]) -> dict[str, Paper]:
    return _papers(db, db.execute(statement).all())


def _papers(db: Connection, rows: Sequence[Row[Any]]) -> dict[str, Paper]:
    names: dict[str, tuple[str, ...]] = {}
    for part in chunks(row.id for row in rows):
        statement = (
            select(paper_authors.c.paper_id, paper_authors.c.name)
            .where(paper_authors.c.paper_id.in_(part))
            .order_by(paper_authors.c.paper_id, paper_authors.c.position)
        )
        for paper_id, group in groupby(db.execute(statement), key=lambda row: row.paper_id):
            names[paper_id] = tuple(row.name for row in group)
    return {row.id: _paper(row, names.get(row.id, ())) for row in rows}


def _paper(row: Row[Any], authors: tuple[str, ...]) -> Paper:
    return Paper(
        id=row.id,
        title=row.title,
        authors=authors,
        abstract=row.abstract or row.summary,
        published=row.published,
        url=row.url,
        author_count=row.author_count,
        organization=row.organization,
        code=row.code,
        fields=tuple(row.fields),
        comments=row.comments,
        summary=row.summary,
        organization_slug=row.organization_slug,
    )


def _row(paper: Paper, now: datetime) -> dict[str, Any]:
    return {
        "id": paper.id,
        "title": paper.title,
        "abstract": "" if paper.abstract == paper.summary else paper.abstract,
        "summary": paper.summary,
        "published": paper.published,
        "url": paper.url,
        "author_count": paper.author_count,
        "organization": paper.organization,
        "organization_slug": paper.organization_slug,
        "code": paper.code,
        "fields": list(paper.fields),
        "comments": paper.comments,
        "added": now,
        "changed": now,
    }
