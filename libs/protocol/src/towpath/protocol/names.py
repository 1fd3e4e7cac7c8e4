"""Names as people see them: characters that do not show, or that reorder the text around them.

With such a character a name looks like another name: ``ad\\u200bmin`` like ``admin``. So new names of rooms must not
have any (:func:`check_visible`). User ids come from the issuer of tokens, and rooms may be older than this rule: a
reader shows these characters by their numbers (:func:`shown`).

Guarantee: both functions, and ``shown`` of the JavaScript client, agree on every text
(``libs/protocol/vectors/names.json``). They use the ranges below, not the Unicode tables of their runtimes, which
differ by version.
"""

import re
from typing import Final

# https://www.unicode.org/reports/tr51/: what a variation selector or a joiner may stand beside in emoji.
_EMOJI: Final = (
    r"\u00a9\u00ae\u2122\u2139\u203c\u2049\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
# Arabic, Indic and South-East Asian scripts, which spell with joiners: https://www.rfc-editor.org/rfc/rfc5892#appendix-A
_JOINING: Final = r"\u0600-\u0dff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
_ALLOWED: Final = "|".join(
    (
        rf"(?<=[{_EMOJI}])[\ufe0e\ufe0f]",
        r"(?<=[0-9#*])\ufe0f(?=\u20e3)",
        rf"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])",
        rf"(?<=[{_JOINING}])[\u200c\u200d](?=[{_JOINING}])",
    )
)
# Control characters, line separators, bidirectional controls, Default_Ignorable_Code_Point
# (https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point), and the blank Braille pattern.
_HIDDEN: Final = (
    r"\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_NOT_VISIBLE: Final = re.compile(f"(?!{_ALLOWED})[{_HIDDEN}]")


def check_visible(name: str) -> str:
    """Return ``name`` as it is, if people can see all of it.

    Raises:
        ValueError: It has a hidden character, which the text gives, or nothing but spaces.

    Example:
        >>> check_visible("lock 7 🏳️‍🌈")
        'lock 7 🏳️‍🌈'
        >>> check_visible("lock\\u202e7")
        Traceback (most recent call last):
            ...
        ValueError: must not contain U+202E, which people cannot see
    """
    if found := _NOT_VISIBLE.search(name):
        raise ValueError(f"must not contain {_number(found.group())}, which people cannot see")
    if not name.strip():
        raise ValueError("must not be only spaces")
    return name


def shown(name: str) -> str:
    """``name`` for a reader: each hidden character as its number.

    Put it into an element that isolates its direction (``<bdi>``) as well: letters of right-to-left scripts are
    visible, and reorder what is beside them.

    Example:
        >>> shown("ad\\u200bmin")
        'ad⟨U+200B⟩min'
    """
    return _NOT_VISIBLE.sub(lambda found: f"⟨{_number(found.group())}⟩", name)


def _number(character: str) -> str:
    return f"U+{ord(character):04X}"
