"""Names: characters that people cannot see are refused in new names, and shown in others."""

import json
import unicodedata
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.names import check_visible, shown

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/names.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["about"] for vector in VECTORS])
def test_hidden_characters_are_shown_and_refused(vector: dict[str, Any]) -> None:
    assert shown(vector["name"]) == vector["shown"]
    if vector["visible"]:
        assert check_visible(vector["name"]) == vector["name"]
    else:
        with pytest.raises(ValueError, match=r"U\+[0-9A-F]{4,}"):
            check_visible(vector["name"])


@pytest.mark.parametrize("blank", [" ", "\u00a0\u2003 ", "\u3000"])
def test_a_name_of_spaces_is_refused(blank: str) -> None:
    with pytest.raises(ValueError, match="spaces"):
        check_visible(blank)


@given(st.text())
def test_a_shown_name_has_nothing_hidden_and_is_shown_once(name: str) -> None:
    once = shown(name)
    assert shown(once) == once
    assert once == name or "⟨U+" in once


#: Marks of direction: they are of a direction, and invisible.
_MARKS: Final = "\u061c\u200e\u200f"


@given(st.characters(categories=("Cc", "Cf", "Zl", "Zp")))
def test_format_and_control_characters_alone_are_hidden(character: str) -> None:
    # Signs of Arabic, Syriac and Kaithi, and hieroglyphs, that join or enclose what follows: they have glyphs.
    has_glyph = unicodedata.bidirectional(character) in ("AN", "AL", "L") and character not in _MARKS
    assert ("⟨" in shown(f"a{character}b")) is not has_glyph
