"""The gateway inbox: the one queue from which this replica gets everything.

Guarantees: ``queue`` has all bindings from the start; ``routing`` narrows them to connected users as ``binding_plan``
decides; ``probe`` finds an inbox that is lost without an error; ``resync`` restores what was lost with an old inbox.
"""
