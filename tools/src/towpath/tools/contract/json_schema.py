"""One JSON Schema document (2020-12) a domain, for validators: each message is a definition of its own.

``chat.json#/$defs/request.chat.send`` is the ``data`` of a request; ``envelope.json`` is the envelope around it.
"""

from collections.abc import Sequence
from typing import Final

from towpath.protocol.envelope import Envelope
from towpath.tools.contract import schemas
from towpath.tools.contract.catalogue import Party
from towpath.tools.contract.schemas import Schema

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/{model}"


def documents(parties: Sequence[Party]) -> dict[str, Schema]:
    """File name → document."""
    envelope = schemas.of_model(Envelope, "serialization", _REF)
    found: dict[str, Schema] = {
        "envelope.json": {
            "$schema": DIALECT,
            **envelope.pop("Envelope"),
            **({"$defs": envelope} if envelope else {}),
        }
    }
    for party in parties:
        data, definitions = schemas.of_messages(party.messages, _REF)
        found[f"{party.domain or party.name}.json"] = {
            "$schema": DIALECT,
            "title": f"Messages of {party.name}",
            "$defs": dict(sorted((data | definitions).items())),
        }
    return found
