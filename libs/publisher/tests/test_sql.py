"""``towpath_publish`` as psql sees it: what it accepts, what it refuses, and who may call it."""

import concurrent.futures
import json
import time
from typing import Any

import pytest

from towpath.publisher.outbox import outbox_sql, outbox_statements

from .conftest import Psql

ROWS = "SELECT json_agg(to_jsonb(o) ORDER BY id) FROM towpath_outbox o;"


def rows(psql: Psql) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] | None = json.loads(psql.run(ROWS) or "null")
    return found or []


def test_a_commit_keeps_the_event_and_a_rollback_does_not(shop: Psql) -> None:
    msg_id = shop.run(
        "CREATE TABLE payments (order_id text);"
        "BEGIN; INSERT INTO payments VALUES ('o-1');"
        """SELECT towpath_publish('order.paid', '{"order_id": "o-1", "amount": 9.90}', 'order:o-1'); COMMIT;"""
        "BEGIN; INSERT INTO payments VALUES ('o-2');"
        """DO $$ BEGIN PERFORM towpath_publish('order.paid', '{"order_id": "o-2"}'); END $$; ROLLBACK;"""
    )
    (row,) = rows(shop)
    assert (row["msg_id"], row["action"], row["aggregate"]) == (msg_id, "order.paid", "order:o-1")
    assert '"amount": 9.90' in shop.run("SELECT data FROM towpath_outbox;")
    assert len(msg_id) == 32


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'Order paid', '{}'", "the action 'Order paid' is not domain.verb"),
        ("'order', '{}'", "the action 'order' is not domain.verb"),
        ("NULL, '{}'", "the action NULL is not domain.verb"),
        (f"'order.{'x' * 60}', '{{}}'", "is not domain.verb"),
        ("E'order.paid\\n', '{}'", "is not domain.verb"),
        ("'order.paid', '[1]'", "the data of order.paid is not a JSON object, but array"),
        ("'order.paid', 'null'", "is not a JSON object, but null"),
        ("'order.paid', NULL", "is not a JSON object, but NULL"),
        ("'order.paid', '{'", "invalid input syntax for type json"),
        ("'order.paid', '{}', ''", "the aggregate '' is not 1 to 255 bytes"),
        ("'order.paid', '{}', repeat('x', 256)", "is not 1 to 255 bytes"),
        ("'order.paid', '{}', NULL, 'a b'", "the msg_id 'a b' is not 1 to 64 of"),
        ("'order.paid', '{}', NULL, ''", "the msg_id '' is not 1 to 64 of"),
        ("'order.paid', jsonb_build_object('a', repeat('x', 1048576))", "more than 1048576"),
        ("'order.paid', '{\"a\": \"\\u0000\"}'", "unsupported Unicode escape sequence"),
    ],
)
def test_an_event_that_is_none_is_refused_with_the_problem_and_the_remedy(
    shop: Psql, arguments: str, problem: str
) -> None:
    error = shop.run(f"SELECT towpath_publish({arguments});", fails=True)
    assert problem in error
    assert "HINT:" in error or "DETAIL:" in error
    assert rows(shop) == []


def test_the_smallest_and_the_largest_names_are_accepted(shop: Psql) -> None:
    shop.run(f"SELECT towpath_publish('a.b', '{{}}', 'x', '{'m' * 64}');")
    shop.run(f"SELECT towpath_publish('a1.b_2.c.d{'d' * 54}', '{{}}', repeat('x', 255), 'a.B:c_d-1');")
    assert [row["msg_id"] for row in rows(shop)] == ["m" * 64, "a.B:c_d-1"]


def test_events_of_one_aggregate_have_the_order_of_their_commits_and_others_do_not_wait(shop: Psql) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        slow = threads.submit(
            shop.run,
            "BEGIN; SELECT towpath_publish('order.paid', '{}', 'order:o-1', 'first');"
            "SELECT pg_sleep(1); COMMIT;",
        )
        deadline = time.monotonic() + 20
        while shop.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted;") == "0":
            assert time.monotonic() < deadline
        shop.run("SELECT towpath_publish('order.paid', '{}', 'order:o-2', 'other');")
        assert [row["msg_id"] for row in rows(shop)] == ["other"], "it has not waited for the transaction"
        shop.run("SELECT towpath_publish('order.shipped', '{}', 'order:o-1', 'second');")
        slow.result()
    assert [row["msg_id"] for row in rows(shop) if row["aggregate"] == "order:o-1"] == ["first", "second"]


def test_a_user_gets_the_function_and_nothing_else(psql: Psql) -> None:
    name = f"user_{time.time_ns()}"
    psql.run(f"CREATE ROLE {name}_shop; CREATE ROLE {name}_relay; CREATE ROLE {name}_other;")
    psql.run(outbox_sql(publishers=[f"{name}_shop"], relays=[f"{name}_relay"]))
    as_shop, as_relay = f"SET ROLE {name}_shop;", f"SET ROLE {name}_relay;"
    try:
        psql.run(as_shop + "SELECT towpath_publish('order.paid', '{}', 'order:o-1');")
        # A table of this name in the session's own schema does not catch the event.
        psql.run(
            as_shop + "CREATE TEMP TABLE towpath_outbox (id int); SELECT towpath_publish('order.paid', '{}');"
        )
        assert len(rows(psql)) == 2
        for statement in (
            "SELECT * FROM towpath_outbox",
            "INSERT INTO towpath_outbox (msg_id, action, data, bytes) VALUES ('m', 'a.b', '{}', 2)",
            "DELETE FROM towpath_outbox",
        ):
            assert "permission denied" in psql.run(f"{as_shop}{statement};", fails=True)
        assert "permission denied" in psql.run(
            f"SET ROLE {name}_other; SELECT towpath_publish('order.paid', '{{}}');", fails=True
        )
        psql.run(as_relay + "UPDATE towpath_outbox SET parked_at = now(), reason = 'x';")
        for statement in (
            "UPDATE towpath_outbox SET data = '{}'",
            "SELECT towpath_publish('order.paid', '{}')",
        ):
            assert "permission denied" in psql.run(f"{as_relay}{statement};", fails=True)
        psql.run(as_relay + "DELETE FROM towpath_outbox;")
    finally:
        psql.run(
            f"DROP OWNED BY {name}_shop, {name}_relay; DROP ROLE {name}_shop, {name}_relay, {name}_other;"
        )


def test_it_may_be_installed_again_and_in_a_schema_of_its_own(shop: Psql) -> None:
    shop.run("SELECT towpath_publish('order.paid', '{}');")
    shop.run(outbox_sql())
    assert len(rows(shop)) == 1
    shop.run('CREATE SCHEMA "The shop";' + outbox_sql("The shop"))
    shop.run("""SELECT "The shop".towpath_publish('order.paid', '{}');""")
    assert shop.run('SELECT count(*) FROM "The shop".towpath_outbox;') == "1"
    assert len(rows(shop)) == 1


def test_a_statement_each_is_the_same_text() -> None:
    statements = outbox_statements(publishers=["shop"])
    assert ";\n\n".join(statements) + ";" == outbox_sql(publishers=["shop"]).strip()
    assert len(statements) == 7
