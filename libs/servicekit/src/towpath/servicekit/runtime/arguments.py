"""The two arguments of every program, ``--help`` and ``--version``. Everything else is a setting.

Guarantee: both print and end before a setting is read, so that they work in every environment.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from towpath.servicekit.runtime.setting_texts import setting_texts
from towpath.servicekit.runtime.spelling import PREFIX

_KIT = "towpath-servicekit"


def answer_of(service: str, model: type[BaseSettings], argv: Sequence[str]) -> str | None:
    """The text to print if the first argument asks for it; else ``None``.

    Args:
        service: The name of the service, or ``gateway``.
        model: Its settings.
        argv: As in :data:`sys.argv`.
    """
    asked = argv[1] if len(argv) > 1 else ""
    if asked in ("-h", "--help"):
        return "\n".join(_help(_program(argv), model))
    if asked == "--version":
        return _version(_program(argv), service)
    return None


def _help(program: str, model: type[BaseSettings]) -> Iterator[str]:
    yield f"Usage: {program} [--help | --version]"
    yield ""
    yield "It runs until SIGTERM or SIGINT (Ctrl-C). Its settings are environment variables, with these defaults:"
    texts = setting_texts(model)
    listed: set[str] = set()
    # The model's own settings first, then those that other programs have as well.
    for part in model.__mro__:
        own = vars(part).get("__annotations__", {})
        names = [name for name in own if name in model.model_fields and name not in listed]
        listed.update(names)
        if names:
            yield ""
        for name in names:
            yield f"  {(PREFIX + name).upper()}={_default(model.model_fields[name])}"
            if name in texts:
                yield f"      {_first_sentence(texts[name])}"
    yield ""
    yield "Their limits and meaning in full: docs/reference/settings.md in Towpath's repository."


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".").replace("`", "") + "."


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    if field.default_factory is not None:
        return "(random)"
    default: Any = field.default
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _version(program: str, service: str) -> str:
    found = [
        entry.dist.version for entry in entry_points(group="towpath.services", name=service) if entry.dist
    ]
    try:
        own = found[0] if found else version(f"towpath-{service}")
    except PackageNotFoundError:  # a program in one file, which is installed nowhere
        return f"{program} ({_KIT} {version(_KIT)})"
    return f"{program} {own} ({_KIT} {version(_KIT)})"


def _program(argv: Sequence[str]) -> str:
    path = Path(argv[0])
    if path.name == "__main__.py":
        return f"python -m {getattr(sys.modules['__main__'].__spec__, 'parent', path.parent.name)}"
    return path.name
