"""A PostgreSQL with an outbox, used as a backend in any language does: through psql."""

import subprocess

import pytest

from towpath.publisher.outbox import outbox_sql
from towpath.tools.packages import POSTGRESQL, find_or_install


class Psql:
    """psql on one database.

    Attributes:
        url: The address, as programs without SQLAlchemy take it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.replace("postgresql+asyncpg://", "postgresql://")
        beside = find_or_install(POSTGRESQL).with_name("psql")
        self._program = str(beside) if beside.exists() else "psql"

    def run(self, script: str, *, fails: bool = False) -> str:
        """Run a script in one session; returns its output, or the errors of one that ``fails``."""
        ran = subprocess.run(
            [
                self._program,
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "-v",
                "ON_ERROR_STOP=1",
                self.url,
            ],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode != 0) is fails, ran.stderr
        return ran.stderr if fails else ran.stdout.strip()


@pytest.fixture
def psql(postgres_url: str) -> Psql:
    """psql on an empty database."""
    return Psql(postgres_url)


@pytest.fixture
def shop(psql: Psql) -> Psql:
    """psql on a database with an outbox."""
    psql.run(outbox_sql())
    return psql
