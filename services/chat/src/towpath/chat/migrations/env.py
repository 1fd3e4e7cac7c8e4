"""Alembic's entry; see :mod:`towpath.servicekit.storage.migrations`."""

from towpath.chat.tables import METADATA
from towpath.servicekit.storage.migrations import run_migrations

run_migrations(METADATA)
