"""sources (reserved)."""

from sqlalchemy import Connection


def up(db: Connection) -> None:
    """Nothing yet."""
