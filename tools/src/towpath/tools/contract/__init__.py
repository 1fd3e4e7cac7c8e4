"""The contract from the code: all messages of the installed services and of the gateway, as documents.

::

    services, gateway ──▶ catalogue ──▶ schemas ──▶ asyncapi, json_schema, page
                          declarations            ──▶ compatibility, between two AsyncAPI documents

Guarantees: every action, push and event that a service declares is in every document; a service of this repository
that leaves one undeclared is named (``declarations``); a change that breaks clients, services or backends of an
earlier release is named (``compatibility``). The documents depend on the code alone: the same code writes the same
text.
"""
