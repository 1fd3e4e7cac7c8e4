"""Alembic's entry; see :mod:`towpath.servicekit.migrations`."""

from towpath.orders.tables import METADATA
from towpath.servicekit.migrations import run_migrations

run_migrations(METADATA)
