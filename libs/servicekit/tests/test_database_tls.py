"""PostgreSQL over TLS: ``ssl=verify-full`` trusts one authority and one name, and nothing weaker is accepted."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.servicekit.storage.database import Database
from towpath.testkit.certificates import Authority
from towpath.testkit.postgres import CERTIFIED, Postgres, running_with_tls
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit

VERSION: Final = sa.text("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Postgres]:
    with running_with_tls(authority.issue("localhost"), authority.ca) as server:
        yield server


def trusting(authority: Authority, *, certified: bool = False) -> TlsFiles:
    own = authority.issue("client@example.org") if certified else None
    return TlsFiles(
        "TOWPATH_DATABASE", authority.ca, own.certificate if own else None, own.key if own else None
    )


async def tls_version(url: str, files: TlsFiles) -> str:
    async with (
        Database.open(f"{url}?ssl=verify-full", service="test", tls=files) as database,
        database.reading() as connection,
    ):
        return str(await connection.scalar(VERSION))


async def refusal(url: str, files: TlsFiles) -> str:
    with pytest.raises(BadSetting) as bad:
        await tls_version(url, files)
    told = str(bad.value)
    assert told.startswith("TOWPATH_DATABASE_")
    assert "\n" not in told
    return told


async def test_a_server_of_the_named_authority_is_trusted(server: Postgres, authority: Authority) -> None:
    async with server.database() as url:
        assert await tls_version(url, trusting(authority)) == "TLSv1.3"


async def test_a_server_of_another_authority_is_refused_at_the_start(
    server: Postgres, tmp_path: Path
) -> None:
    async with server.database() as url:
        told = await refusal(url, trusting(Authority(tmp_path, "another")))
        assert "CERTIFICATE_VERIFY_FAILED" in told
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(url, TlsFiles("TOWPATH_DATABASE"))


async def test_a_server_with_a_certificate_for_another_name_is_refused_at_the_start(
    server: Postgres, authority: Authority
) -> None:
    async with server.database() as url:
        told = await refusal(url.replace("localhost", "127.0.0.1"), trusting(authority))
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in told


async def test_a_client_certificate_is_presented_to_a_server_that_asks_for_one(
    server: Postgres, authority: Authority
) -> None:
    async with server.database() as url:
        engine = server.url("postgres")
        await _create_role(engine)
        certified = url.replace("postgres:@", f"{CERTIFIED}:@")
        assert "certificate" in await refusal(certified, trusting(authority))
        assert await tls_version(certified, trusting(authority, certified=True)) == "TLSv1.3"


async def test_certificate_files_that_would_not_be_used_are_refused(
    authority: Authority,
) -> None:
    for url in ("postgresql+asyncpg://localhost/x", "postgresql+asyncpg://localhost/x?ssl=disable"):
        with pytest.raises(
            BadSetting, match=re.escape("must say ssl=verify-full, because TOWPATH_DATABASE_CA")
        ):
            async with Database.open(url, service="test", tls=trusting(authority)):
                pass


async def test_a_file_that_cannot_be_read_is_named_at_the_start(server: Postgres, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    told = await refusal(server.url("postgres"), TlsFiles("TOWPATH_DATABASE", ca=gone))
    assert told == f"TOWPATH_DATABASE_CA='{gone}': is not a file"


async def test_a_replaced_authority_takes_effect_with_the_next_connection(
    server: Postgres, authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    shutil.copy(authority.ca, ca)
    files = TlsFiles("TOWPATH_DATABASE", ca=str(ca))
    async with (
        server.database() as url,
        Database.open(f"{url}?ssl=verify-full", service="test", tls=files) as database,
        database.reading(),
    ):
        shutil.copy(Authority(tmp_path, "another").ca, ca)
        # The pool's one connection is in use.
        assert not await database.answers()
        os.unlink(ca)  # noqa: PTH108
        assert not await database.answers()
        shutil.copy(authority.ca, ca)
        assert await database.answers()


async def test_a_service_works_over_tls_and_ends_with_one_line_if_the_server_is_not_trusted(
    server: Postgres, authority: Authority, rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    async with server.database() as url:
        settings = {
            "amqp_url": rabbitmq.url,
            "database_url": f"{url.replace('postgresql+asyncpg', 'postgresql')}?ssl=verify-full",
        }
        service = await processes.start("towpath-orders", timeout=60, database_ca=authority.ca, **settings)
        assert await service.terminate() == 0
        stranger = processes.launch(
            "towpath-orders", database_ca=Authority(tmp_path, "another").ca, **settings
        )
        assert await stranger.ended(timeout=60) == ExitStatus.BAD_SETTING
        (line,) = [line for line in stranger.output.splitlines() if not line.startswith("{")]
        assert line.startswith("towpath-orders: TOWPATH_DATABASE_URL=")
        assert "CERTIFICATE_VERIFY_FAILED" in line


async def _create_role(url: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.text(f"CREATE ROLE {CERTIFIED} LOGIN SUPERUSER"))
    finally:
        await engine.dispose()
