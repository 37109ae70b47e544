"""Search with filters and mended words: what papers are narrowed by, how common words are."""

from sqlalchemy import Connection

VOCABULARY = (
    """
    CREATE TABLE search_vocabulary (
        word VARCHAR NOT NULL,
        term VARCHAR NOT NULL,
        papers INTEGER NOT NULL,
        CONSTRAINT pk_search_vocabulary PRIMARY KEY (word)
    )
    """,
    "CREATE INDEX ix_search_vocabulary_term ON search_vocabulary (term)",
)
# What these tables hold is made from the papers; all of them are noted as changed, so that the
# next one who indexes makes it.
POSTGRESQL = (
    "TRUNCATE search_words",
    "DROP INDEX ix_search_words_body",
    "ALTER TABLE search_words ADD COLUMN marks TSVECTOR NOT NULL",
    "ALTER TABLE search_words ADD COLUMN published DATE NOT NULL",
    # Rows stay whole in their page: what ranks a few hundred of them would unpack each many times.
    "ALTER TABLE search_words SET (toast_tuple_target = 8160)",
    "CREATE INDEX ix_search_words_body ON search_words USING gin (body, marks)",
    "CREATE INDEX ix_search_words_published ON search_words (published, paper_id)",
    "INSERT INTO changes (paper_id) SELECT id FROM papers ORDER BY id",
)


def up(db: Connection) -> None:
    """Make the vocabulary, and on PostgreSQL room for what filters and ranking ask for."""
    for step in VOCABULARY:
        db.exec_driver_sql(step)
    if db.dialect.name == "postgresql":
        for step in POSTGRESQL:
            db.exec_driver_sql(step)
