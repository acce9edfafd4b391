"""The migrations of a store, applied by Alembic. Append-only: a released one is never edited."""
