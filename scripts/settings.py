"""Writes docs/reference/settings.md, and the names that all programs know, from the settings models: ``make docs``.

A test fails when they differ.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import typer
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from towpath.gateway.settings import GatewaySettings
from towpath.ingress.settings import IngressSettings
from towpath.publisher.relay.settings import DatabaseSettings as OutboxSettings
from towpath.publisher.relay.settings import RelaySettings
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.setting_texts import setting_texts
from towpath.servicekit.runtime.settings import PREFIX, BrokerSettings, ServiceSettings, TelemetrySettings
from towpath.tools.cli import app

PAGE: Final = Path(__file__).parent.parent / "docs/reference/settings.md"

NAMES: Final = (
    Path(__file__).parent.parent / "libs/servicekit/src/towpath/servicekit/runtime/known_settings.txt"
)

HEAD: Final = """\
# Settings

Every setting is an environment variable. A wrong one stops the program at once, with exit status 78 and one line that
names the variable, its value and the remedy; the values of secrets are never shown. So does a variable that is
spelled nearly like a setting. [More about the start](../operations/start-and-health.md).

This page is written by `make docs` from the settings models, and a test fails when it differs from them.
"""

#: Title, the line below it, the models whose own fields are listed there.
Section = tuple[str, str, list[type[BaseModel]]]


def sections() -> list[Section]:
    """The sections of the page; of the installed services those of this repository have one."""
    services = {
        f"`towpath-{one.name}`": one.settings()
        for one in installed_services()
        if (PAGE.parents[2] / "services" / one.name).is_dir()
    }
    return [
        ("Every program", "", [BrokerSettings, TelemetrySettings]),
        ("`towpath-gateway`", "", [GatewaySettings]),
        ("`towpath-ingress`", "", [IngressSettings]),
        (f"{', '.join(services)}, and every service of yours", "", [ServiceSettings]),
        *_own(services),
        ("`towpath-relay`", "", [OutboxSettings, RelaySettings]),
    ]


def _own(services: Mapping[str, type[BaseSettings]]) -> Iterator[Section]:
    for title, model in services.items():
        if model is ServiceSettings:  # it has none of its own
            continue
        yield title, "Differences from the above:", [model]


#: Read by ``towpath dev`` and ``towpath web``, and no option of theirs.
PATHS: Final = {
    "TOWPATH_RABBITMQ_SERVER": "The `rabbitmq-server` that `towpath dev` starts, instead of the installed one.",
    "TOWPATH_WEB_ROOT": "The built page, `clients/web/dist`; needed where the repository is not around.",
}


class Undocumented(Exception):
    """A setting without a text in the docstring."""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for title, lead, models in sections():
        rows = [row for model in models for row in _rows(model)]
        parts += [f"## {title}\n", f"{lead}\n" if lead else "", "| setting | default | value | meaning |"]
        parts += ["| --- | --- | --- | --- |", *rows, ""]
    parts += ["## `towpath dev`, `towpath web`\n", "Each sets an option; the option itself wins.\n"]
    parts += ["| setting | option | meaning |", "| --- | --- | --- |", *_option_rows()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def render_names() -> str:
    """The file with the names of all settings, one on each line."""
    names = {
        (PREFIX + name).upper()
        for _, _, models in sections()
        for model in models
        for name in model.model_fields
    }
    names |= {row.split("`")[1] for row in _option_rows()}
    return "".join(f"{name}\n" for name in sorted(names))


def _option_rows() -> Iterator[str]:
    for command in ("dev", "web"):
        for option in typer.main.get_group(app).commands[command].params:
            if option.envvar:
                meaning = re.sub(r"\[/?[a-z]*\]", "", getattr(option, "help", None) or "")
                yield f"| `{option.envvar}` | `towpath {command} {option.opts[0]}` | {meaning} |"
    for variable, meaning in PATHS.items():
        yield f"| `{variable}` | – | {meaning} |"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    texts = setting_texts(model)
    for name in model.__annotations__:
        if name == "model_config":
            continue
        field = model.model_fields[name]
        if name not in texts:
            raise Undocumented(f"{model.__name__}.{name}: describe it in the docstring, below Attributes")
        variable = f"`{(PREFIX + name).upper()}`"
        yield f"| {variable} | {_default(field)} | {_value(field)} | {texts[name]} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "random"
    return "–" if field.default in (None, "") else f"`{_plain(field.default)}`"


def _value(field: FieldInfo) -> str:
    pattern = next((p for part in field.metadata if (p := getattr(part, "pattern", None))), None)
    if pattern and (choices := re.fullmatch(r"\^\((.*)\)\$", pattern)):
        return ", ".join(f"`{choice}`" for choice in choices[1].split("|"))
    if pattern:
        return f"`{pattern.strip('^$')}`".replace("|", "\\|")
    low = next((f"from {_plain(m.ge)}" for m in field.metadata if isinstance(m, Ge)), "")
    low = next((f"over {_plain(m.gt)}" for m in field.metadata if isinstance(m, Gt)), low)
    high = next((f"to {_plain(m.le)}" for m in field.metadata if isinstance(m, Le)), "")
    if field.annotation is bool:
        return "`true`, `false`"
    # Of `Annotated[str, …] | None`, as of `str`, the kind is text.
    kinds = {getattr(part, "__origin__", part) for part in (field.annotation, *get_args(field.annotation))}
    kind = "text" if str in kinds else "number"
    return " ".join(part for part in (low, high) if part) or kind


def _plain(number: Any) -> str:
    if isinstance(number, bool):
        return str(number).lower()
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


if __name__ == "__main__":
    PAGE.write_text(render())
    NAMES.write_text(render_names())
