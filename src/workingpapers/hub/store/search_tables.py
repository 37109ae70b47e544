"""The tables that search is made from, which hold nothing of their own.

All of it is made from papers and vectors, so they are no part of `metadata` and of no export. The
vocabulary is on both databases, the others on PostgreSQL alone.
"""

from sqlalchemy import Column, Date, Integer, MetaData, String, Table

derived = MetaData()

search_vocabulary = Table(
    "search_vocabulary",
    derived,
    Column("word", String, primary_key=True),  # as it is written, in lower case without accents
    Column("term", String, nullable=False, index=True),  # as the indexes hold it
    Column("papers", Integer, nullable=False),
)
search_words = Table(
    "search_words",
    derived,
    Column("paper_id", String, primary_key=True),
    Column("published", Date, nullable=False),
)
search_meaning = Table(
    "search_meaning",
    derived,
    Column("key", Integer, primary_key=True),
    Column("model", String, nullable=False),
)
