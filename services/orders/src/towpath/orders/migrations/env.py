"""Alembic's entry; see :mod:`towpath.servicekit.storage.migrations`."""

from towpath.orders.tables import METADATA
from towpath.servicekit.storage.migrations import run_migrations

run_migrations(METADATA)
