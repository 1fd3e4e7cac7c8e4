"""The parser of the AsyncAPI initiative reads docs/reference/asyncapi.json.

It is the npm package ``@asyncapi/parser``: the schema of AsyncAPI 3.0, its rules, and JSON Schema for each payload.
Cases: the document has no error; the parser finds each operation and each message that is in it; and it refuses
documents with an error planted in them, so that "no error" says something. Those have the gateway's messages only,
as the parser takes seconds for a large document.
"""

import argparse
import copy
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from judges.needs import ROOT
from towpath.tools.contract import asyncapi
from towpath.tools.contract.catalogue import parties

_DOCUMENT: Final = ROOT / "docs/reference/asyncapi.json"
_PARSE: Final = ROOT / "judges/asyncapi/parse.mjs"

Document = dict[str, Any]


def _without_an_action(document: Document) -> None:
    del document["operations"]["request.session.refresh"]["action"]


def _lost_channel(document: Document) -> None:
    document["operations"]["request.session.refresh"]["channel"] = {"$ref": "#/channels/gone"}


def _lost_schema(document: Document) -> None:
    del document["components"]["schemas"]["RefreshToken"]


def _odd_type(document: Document) -> None:
    document["components"]["schemas"]["RefreshToken"]["properties"]["token"]["type"] = "text"


def _odd_exchange(document: Document) -> None:
    document["channels"]["push.everyone"]["bindings"]["amqp"]["exchange"]["type"] = "queue"


#: Each plants one error.
_PLANTED: Final[dict[str, Callable[[Document], None]]] = {
    "an operation without an action": _without_an_action,
    "an operation on a channel that is not there": _lost_channel,
    "a reference to a schema that is not there": _lost_schema,
    "a type that JSON Schema does not have": _odd_type,
    "an exchange of a type that AMQP does not have": _odd_exchange,
}


def main() -> None:
    """Write the outcome of each case to ``--output``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    document: Document = json.loads(_DOCUMENT.read_text())
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(document, Path(folder))
    asked.output.write_text(json.dumps({"cases": cases}))


def _cases(document: Document, folder: Path) -> dict[str, str]:
    documents = {"document": document, "small": asyncapi.document(parties([]), "0.0.0")}
    for name, plant in _PLANTED.items():
        documents[name] = copy.deepcopy(documents["small"])
        plant(documents[name])
    found = _parsed(documents, folder)
    read = found.pop("document")
    cases = {
        "the document has no error": "; ".join(read["errors"][:5]) or "ok",
        "the document without services has no error": "; ".join(found.pop("small")["errors"][:5]) or "ok",
    }
    for kind, named in (
        ("operation", document["operations"]),
        ("message", document["components"]["messages"]),
    ):
        for name in named:
            cases[f"{kind} {name}"] = "ok" if name in read[f"{kind}s"] else "not found"
    for name, one in found.items():
        cases[f"refused: {name}"] = "ok" if one["errors"] else "accepted"
    return cases


def _parsed(documents: Mapping[str, Document], folder: Path) -> dict[str, Any]:
    """The parser's result for each document. One process: its start takes most of the time."""
    paths = []
    for number, document in enumerate(documents.values()):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(document))
    ran = subprocess.run(
        [ROOT / "scripts/with-node", "node", _PARSE, *paths],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return dict(zip(documents, json.loads(ran.stdout), strict=True))


if __name__ == "__main__":
    main()
