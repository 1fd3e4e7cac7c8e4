"""The OpenAPI document says what the program does: schemathesis asks the program all that the document allows."""

import asyncio
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import aio_pika
from pydantic import BaseModel

from towpath.ingress.items import NewEnvelope
from towpath.ingress.keys import make
from towpath.protocol.envelope import Envelope
from towpath.protocol.routes import EVENTS, PUSH
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit

ROOT: Final = Path(__file__).parents[3]
DOCUMENT: Final = ROOT / "docs/reference/openapi.json"


def test_the_document_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/openapi.py"))["render"]
    assert DOCUMENT.read_text() == render(), "run `make docs`"


def test_a_field_of_an_item_is_what_the_envelope_says() -> None:
    """Items are checked by the protocol's own parser; the model only describes them."""

    def bare(model: type[BaseModel], name: str) -> Any:
        schema = model.model_json_schema()["properties"][name]
        found = schema.get("anyOf", [schema])[0]
        return {key: value for key, value in found.items() if key not in ("title", "examples", "default")}

    for name in NewEnvelope.model_fields.keys() - {"action", "version", "data"}:
        assert bare(NewEnvelope, name) == bare(Envelope, name)


async def bind_everything(url: str) -> None:
    """Queues that take every event and push, and drop all but the newest."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        for exchange in (EVENTS, PUSH):
            queue = await channel.declare_queue(f"all.{exchange}", arguments={"x-max-length": 10})
            await queue.bind(exchange, "#")


async def test_schemathesis_finds_no_answer_that_the_document_does_not_describe(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    keys, port = tmp_path / "keys.json", free_port()
    key = make(keys, "shop", ("*",), push=True)
    program = await processes.start(
        "towpath-ingress", timeout=120, port=port, amqp_url=rabbitmq.url, api_keys=keys,
        # It sends few different idempotency keys, with many bodies.
        idempotency_retention=0.001, rate_per_key=0,
    )  # fmt: skip
    await bind_everything(rabbitmq.url)
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run", str(DOCUMENT),
        f"--url=http://127.0.0.1:{port}",
        f"--header=Authorization: Bearer {key}",
    ]  # fmt: skip
    ran = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stdout
    assert program.status is None
    assert "request_failed" not in program.output
    document = json.loads(DOCUMENT.read_text())
    assert list(document["paths"]) == ["/v1/events", "/v1/push"]
