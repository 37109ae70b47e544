"""Search on PostgreSQL: the words and the meaning of each paper. Nothing on SQLite."""

from sqlalchemy import Connection

# Both are made from `papers` and `vectors` and can be made from them again at any time.
STEPS = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    """
    CREATE TABLE search_words (
        paper_id VARCHAR NOT NULL,
        body TSVECTOR NOT NULL,
        CONSTRAINT pk_search_words PRIMARY KEY (paper_id),
        CONSTRAINT fk_search_words_paper_id FOREIGN KEY (paper_id) REFERENCES papers (id)
            ON UPDATE CASCADE ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_search_words_body ON search_words USING gin (body)",
    # Without a number of dimensions: it depends on the encoder. Each model has an index of its own.
    """
    CREATE TABLE search_meaning (
        key INTEGER NOT NULL,
        model VARCHAR NOT NULL,
        embedding VECTOR NOT NULL,
        CONSTRAINT pk_search_meaning PRIMARY KEY (key),
        CONSTRAINT fk_search_meaning_key FOREIGN KEY (key) REFERENCES vectors (key)
            ON DELETE CASCADE
    )
    """,
)


def up(db: Connection) -> None:
    """Make the extension and the tables.

    The extension needs a superuser, where the server does not trust it to all; the error that
    says so is told as it is.
    """
    if db.dialect.name == "postgresql":
        for step in STEPS:
            db.exec_driver_sql(step)
