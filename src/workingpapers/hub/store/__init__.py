"""The database: schema, migrations, both SQL dialects. Nobody else writes SQL."""
