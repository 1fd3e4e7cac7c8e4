"""``scripts/words.py``: it finds the words that readers stumble over, where people read them, and nothing else."""

import runpy
from pathlib import Path
from typing import Any, Final

import pytest

WORDS: Final[dict[str, Any]] = runpy.run_path(str(Path(__file__).parent.parent / "scripts/words.py"))


def found(tmp_path: Path, name: str, text: str) -> list[tuple[int, str]]:
    """The line and the word of each finding in a file of that name."""
    path = tmp_path / name
    path.write_text(text)
    return [(line, word) for line, word, _ in WORDS["findings"](path.suffix, path)]


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("The inbox is made anew.", "anew"),
        ("Each client is told of it.", "told"),
        ("A string is no number.", "is no"),
        ("Nobody waits for it.", "Nobody"),
        ("A queue stands on the broker.", "stands"),
        ("A message comes back after 5 s.", "comes back"),
        ("Who connects waits.", "Who"),
        ("It ends. What is left waits.", "What"),
    ],
)
def test_a_word_of_the_dialect_is_found(sentence: str, word: str) -> None:
    assert [each for each, _ in WORDS["wrong"](sentence)] == [word]


@pytest.mark.parametrize(
    "sentence",
    [
        "The inbox is created again.",
        "There is no queue of this name.",
        "It is no longer bound.",
        "What is a lane?",
        "What you can rely on",
        "The event is `user.told` or `stands`.",
    ],
)
def test_a_plain_sentence_passes(sentence: str) -> None:
    assert list(WORDS["wrong"](sentence)) == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        (
            "a.py",
            '"""A module.\n\nIt is made anew.\n"""\nanew = 1  # told\nx = "made anew"\ny = "user.told"\n',
            [3, 5, 6],
        ),
        ("a.py", "def test_what_is_lost_is_found() -> None: ...\ndef what_is() -> None: ...\n", [1]),
        ("a.py", 'told = 1\nprint(f"{told} of {len(f"{told}")}")\n', []),
        ("a.md", "# What it costs\n\nIt is made anew.\n\n```\nanew\n```\n", [3]),
        ("a.ts", "// made anew\nconst anew = 'made anew';\n", [1, 2]),
        ("a.css", "/* made anew */\n", [1]),
        ("a.yml", "anew: 1  # made anew\n", [1]),
        ("a.svg", "<!-- made anew -->\n", []),
    ],
    ids=["strings", "tests", "code", "markdown", "typescript", "css", "settings", "others"],
)
def test_only_text_for_readers_is_checked(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    assert [line for line, _ in found(tmp_path, name, text)] == lines
