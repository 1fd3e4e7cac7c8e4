"""Writes docs/reference/servicekit.md from the docstrings of the kit's public names: ``make docs``.

A test fails when the two differ. The sources are read, not imported (griffe), so signatures are as they are written.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import griffe

from towpath import servicekit

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs/reference/servicekit.md"
_SOURCES: Final = [ROOT / "libs/servicekit/src", ROOT / "libs/protocol/src"]
_WIDTH: Final = 96

HEAD: Final = """\
# The service kit

The public names of `towpath.servicekit`: import them from there. Everything else in the package is internal. Begin
with the tutorial [your own service](../tutorial/your-own-service.md); this page is for looking things up.

This page is written by `make docs` from the docstrings, and a test fails when it differs from them.
"""

#: Title of a section, its lead, its names. Each public name is in one section.
SECTIONS: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    (
        "A service",
        "The definition is a value; `run` serves it until SIGTERM.",
        ("Service", "run", "serve_domain", "Connect", "connect", "ServiceSettings"),
    ),
    (
        "Handlers and their results",
        "A handler is a plain function: it gets a model, and returns an `Outcome`.",
        (
            "Handler",
            "Handlers",
            "Request",
            "Outcome",
            "Push",
            "to_user",
            "to_group",
            "to_everyone",
            "resumed",
        ),
    ),
    (
        "Storage",
        "A unit of work is one transaction for a whole batch.",
        ("Storage", "UnitOfWork", "Database", "KitTables", "OutboxTables", "bulk"),
    ),
    (
        "Streams",
        "Numbered entries that a client can ask for again after a lost connection.",
        (
            *("StreamTables", "Streams", "Replay", "batched", "read_heads"),
            *("EntryId", "Fields", "Hidden", "Leave", "Groups"),
        ),
    ),
    ("Timers", "Periodic work, on every replica.", ("Timer", "TimerRun")),
    (
        "Effects",
        "Calls to the outside, after the commit.",
        ("Effect", "EffectCall", "EffectHandler", "EffectParked"),
    ),
    (
        "Settings and limits",
        "Types of settings for models of your own.",
        ("Seconds", "Port", "DatabaseUrl", "Rate", "Buckets"),
    ),
    (
        "Errors",
        "A handler refuses a request with a `TowpathError` of `towpath.protocol.errors`.",
        (
            *("CannotStart", "BadSetting", "BadService", "BadEntryPoint"),
            *("MissingMigration", "NewerSchema", "BadMark"),
            *("BrokerRefused", "TopologyMismatch", "BrokerError", "Unroutable", "PublishRefused"),
            *("Unpublishable", "PublishUnconfirmed", "BrokerUnavailable", "BrokerBlocked"),
            *("NoOutbox", "NoEffects", "UnknownEffect", "EffectRefused"),
        ),
    ),
)

Definition = griffe.Object
D = TypeVar("D", bound=Definition)


class Undocumented(Exception):
    """A public name without a section or a docstring."""


def render() -> str:
    """The page.

    Raises:
        Undocumented
    """
    listed = [name for _, _, names in SECTIONS for name in names]
    if missing := set(servicekit.__all__) ^ set(listed):
        raise Undocumented(f"scripts/servicekit.py: {', '.join(sorted(missing))}: in one section each")
    kit = griffe.load(
        servicekit.__name__,
        search_paths=[str(path) for path in _SOURCES],
        docstring_parser="google",
        docstring_options={"warnings": False},
    )
    assert isinstance(kit, griffe.Module)
    found = {name: _find(kit, name) for name in listed}
    parts = [HEAD]
    for title, lead, names in SECTIONS:
        parts += [f"## {title}\n", f"{lead}\n"]
        for name in names:
            parts += _entry(name, found[name])
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"
    return _linked(text, frozenset(listed))


def _find(kit: griffe.Module, name: str) -> Definition:
    # One table of the kit says where a name is defined.
    found = kit[f"{servicekit._MODULE_OF[name]}.{name}"]
    if isinstance(found, griffe.Alias):  # passed on by the package of its module
        found = kit[found.target_path.removeprefix(f"{servicekit.__name__}.")]
    assert isinstance(found, griffe.Object)
    return found


def _entry(name: str, found: Definition) -> Iterator[str]:
    yield f"### {name}\n"
    match found:
        case griffe.Module():
            yield from _text(found)
            for member in _public(found, griffe.Function):
                yield f"#### {name}.{member.name}\n"
                yield from _function(member, f"{name}.")
        case griffe.Class():
            yield from _class(found)
        case griffe.Function():
            yield from _function(found)
        case griffe.Attribute():
            yield from _alias(found)


def _class(found: griffe.Class) -> Iterator[str]:
    bases = [str(base) for base in found.bases]
    made = _struct_init(found) if "msgspec.Struct" in bases else found.members.get("__init__")
    if isinstance(made, griffe.Function) and not any(
        "Exception" in base or "Error" in base for base in bases
    ):
        yield _code(_signature(made, found.name))
    yield from _text(found)
    if known := [base for base in bases if base in servicekit.__all__]:
        yield f"A {', '.join(_names(base) for base in known)}.\n"
    for member in _public(found, griffe.Function):
        yield f"#### {found.name}.{member.name}\n"
        yield from _function(member, f"{found.name}.")
    properties = [one for one in _public(found, griffe.Attribute) if "property" in one.labels]
    if properties:
        yield "| property | |"
        yield "| --- | --- |"
        for one in properties:
            yield f"| `{one.name}` | {_line(_docstring(one))} |"
        yield ""


def _struct_init(found: griffe.Class) -> griffe.Function:
    """The constructor of a struct, which griffe knows of dataclasses only."""
    kinds = griffe.ParameterKind
    kind = kinds.keyword_only if found.keywords.get("kw_only") == "True" else kinds.positional_or_keyword
    fields = [
        one
        for one in found.members.values()
        if isinstance(one, griffe.Attribute) and one.annotation and "property" not in one.labels
    ]
    parameters = [
        griffe.Parameter(
            one.name,
            annotation=one.annotation,
            kind=kind,
            # Not the text of a factory.
            default="..." if str(one.value).startswith("msgspec.field") else one.value,
        )
        for one in fields
    ]
    return griffe.Function("__init__", parameters=griffe.Parameters(*parameters))


def _function(found: griffe.Function, prefix: str = "") -> Iterator[str]:
    is_entered = any("contextmanager" in str(one.value) for one in found.decorators)
    before = ("async " if "async" in found.labels else "") + ("with " if is_entered else "")
    yield _code(before + _signature(found, prefix + found.name))
    yield from _text(found)


def _alias(found: griffe.Attribute) -> Iterator[str]:
    annotated = (
        f": {found.annotation}" if found.annotation and "TypeAlias" not in str(found.annotation) else ""
    )
    yield _code(f"{found.name}{annotated} = {found.value}")
    # Comments with a colon: the docstring of a name that cannot have one.
    lines = (found.filepath if isinstance(found.filepath, Path) else Path()).read_text().splitlines()
    above: list[str] = []
    for line in reversed(lines[: (found.lineno or 1) - 1]):
        if not line.startswith("#:"):
            break
        above.insert(0, line.removeprefix("#:").strip())
    if not above:
        raise Undocumented(f"{found.path}: a comment with #: above it says its meaning")
    yield _prose(" ".join(above)) + "\n"


def _public(found: griffe.Module | griffe.Class, kind: type[D]) -> list[D]:
    members = (one for one in found.members.values() if isinstance(one, kind))
    return [one for one in members if not one.name.startswith("_") and one.docstring is not None]


def _signature(function: griffe.Function, name: str) -> str:
    shown, bare_star = [], False
    for one in function.parameters:
        if one.name in ("self", "cls"):
            continue
        star = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(one.kind or griffe.ParameterKind.positional_or_keyword, "")
        bare_star = bare_star or star == "*"
        if one.kind is griffe.ParameterKind.keyword_only and not bare_star:
            bare_star = True
            shown.append("*")
        annotated = f": {one.annotation}" if one.annotation else ""
        default = ""
        if one.default is not None and not star:
            # A private default says no more than that there is one.
            value = "..." if str(one.default).startswith("_") else one.default
            default = f" = {value}" if annotated else f"={value}"
        shown.append(f"{star}{one.name}{annotated}{default}")
    is_made = function.name == "__init__"
    returns = f" -> {function.returns}" if function.returns and not is_made else ""
    line = f"{name}({', '.join(shown)}){returns}".replace('"', "")
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown).replace('"', "") + f"){returns}"


def _docstring(found: Definition) -> griffe.Docstring:
    if found.docstring is None:
        raise Undocumented(f"{found.path} needs a docstring")
    return found.docstring


def _text(found: Definition) -> Iterator[str]:
    # griffe reads a name up to a space: of "host, port: ..." the first one only.
    value = re.sub(
        r"^ +\w+(?:, \w+)+(?=: )",
        _joined,
        _docstring(found).value,
        flags=re.M,
    )
    docstring = griffe.Docstring(value, parent=found, parser="google", parser_options={"warnings": False})
    for section in docstring.parsed:
        match section:
            case griffe.DocstringSectionText():
                yield _prose(section.value) + "\n"
            case griffe.DocstringSectionParameters() | griffe.DocstringSectionAttributes():
                is_attributes = isinstance(section, griffe.DocstringSectionAttributes)
                yield f"| {'attribute' if is_attributes else 'argument'} | |"
                yield "| --- | --- |"
                yield from (f"| {_names(one.name)} | {_cell(one.description)} |" for one in section.value)
                yield ""
            case griffe.DocstringSectionRaises():
                yield f"Raises {_raised(section)}\n"
            case griffe.DocstringSectionReturns() | griffe.DocstringSectionYields():
                yield f"Returns {_cell(' '.join(one.description for one in section.value))}\n"
            case griffe.DocstringSectionExamples():
                yield from (_prose(text) for _, text in section.value)
            case griffe.DocstringSectionAdmonition():
                yield _example(section.value.contents) + "\n"
            case other:
                raise Undocumented(f"{found.path}: a section of its docstring cannot be shown: {other.kind}")


def _names(written: str) -> str:
    return ", ".join(f"`{name}`" for name in written.strip("()").replace(" ", "").split(","))


def _joined(names: "re.Match[str]") -> str:
    return names[0].replace(", ", ",")


def _raised(section: griffe.DocstringSectionRaises) -> str:
    rows = [(_names(str(one.annotation)), _cell(one.description)) for one in section.value]
    return "; ".join(f"{names}{f': {text}' if text else ''}".rstrip(".") for names, text in rows) + "."


def _example(contents: str) -> str:
    parts: list[str] = []
    for block in contents.split("\n\n"):
        is_code = block.lstrip().startswith(">>>")
        parts.append(_code(textwrap.dedent(block)) if is_code else _prose(block))
    return "\n\n".join(part.rstrip() for part in parts)


def _line(docstring: griffe.Docstring) -> str:
    return _cell(docstring.value.split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(_prose(text).split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Markdown for the roles and literals of reStructuredText."""
    text = re.sub(r":mod:`~?([^`]+)`", r"``\1``", text)
    text = re.sub(r":[a-z]+:`~?([^`]+)`", lambda role: f"``{role[1].rpartition('.')[2]}``", text)
    # A block after "::" is shown as it is.
    text = re.sub(
        r"::\n\n((?:    .*\n?|\n)+)", lambda block: f":\n\n{_code(textwrap.dedent(block[1]))}\n", text
    )
    return text.replace("``", "`").strip()


def _code(text: str) -> str:
    return f"```python\n{text.strip()}\n```\n"


def _linked(text: str, names: frozenset[str]) -> str:
    """Names of classes and pushes in prose become links; a word such as `run` may be something else."""
    names = frozenset(name for name in names if name[0].isupper() or name.startswith("to_"))
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)

    def link(found: "re.Match[str]") -> str:
        name = found[1]
        return f"[`{name}`](#{name.lower()})" if name in names else found[0]

    for number in range(0, len(blocks), 2):
        lines = blocks[number].split("\n")
        blocks[number] = "\n".join(
            line if line.startswith("#") else re.sub(r"(?<!\[)`(\w+)`(?!\])", link, line) for line in lines
        )
    return "".join(blocks)


if __name__ == "__main__":
    PAGE.write_text(render())
