"""Fails on sentences that a reader of English as a second language stumbles over: ``make check`` runs it.

It reads comments, docstrings and messages of Python, names of tests, comments and strings of TypeScript and CSS,
comments of settings and scripts, and Markdown outside code. It prints ``file:line: word: remedy`` for each finding
and ends with status 1. The words and their remedies are `RULES`; where a word is right, the sentence is in `RIGHT`.
The vocabulary itself is the glossary of ARCHITECTURE.md.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: Each is looked for in sentences and, with ``_`` for blanks, in names of tests.
RULES: Final = (
    (r"\bwhoever\b", "name the noun: any sender, each client"),
    (r"\banew\b", "write 'again', or 'a new …'"),
    (r"\b(?:un)?told\b|\btell(?:s|ing)?\b", "write what happens: publish, log, report, show"),
    (
        r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b)",
        "write 'is not a …', or 'without'",
    ),
    (r"\b(?:nobody|somebody|everybody)\b", "name the noun: no client, a user, each member"),
    (r"\bstands\b", "write 'exists', or 'is'"),
    (r"\b(?:comes?|came|coming) back\b", "write 'is redelivered', 'returns', or 'reconnects'"),
    (r"\b(?:comes|came) again\b", "write 'is redelivered', or 'is sent again'"),
    (r"(?:^|(?<=[.:;] ))(?:Who|What) (?!you\b)", "begin with the noun that acts"),
)
#: Sentences in which a word of `RULES` is right.
RIGHT: Final = (
    "user 'nobody'",  # a name that RabbitMQ refuses
)
#: Files of others, files that are generated, and this one.
SKIPPED: Final = re.compile(
    r"\.lock$|package-lock\.json$|/vectors/.*\.json$|/zh\.ts$|^scripts/words\.py$|^tests/test_words\.py$|^docs/images/"
)
_CODE: Final = re.compile(r"`[^`]+`")
_HASH: Final = re.compile(r"(?:^|\s)#+\s(.*)$")
_SLASHES: Final = re.compile(r"(?:^|\s)//\s?(.*)$|^\s*/?\*+\s?(.*?)(?:\*/)?$")
_STRING: Final = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|`((?:[^`\\]|\\.)*)`")
_PREFIX: Final = re.compile(r"^[A-Za-z]{0,2}(\"\"\"|'''|\"|')")


def main() -> int:
    """Report every finding in the files that git knows."""
    git = ["git", "ls-files"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    named = sys.argv[1:] or listed.stdout.splitlines()
    found = 0
    for name in named:
        path = ROOT / name
        if SKIPPED.search(name) or not path.is_file():
            continue
        for line, word, remedy in findings(path.suffix, path):
            sys.stdout.write(f"{name}:{line}: {word!r}: {remedy}\n")
            found += 1
    return 1 if found else 0


def findings(suffix: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the word and the remedy of each finding in one file."""
    reader = {
        ".py": python,
        ".md": markdown,
        ".in": markdown,
        ".ts": script,
        ".tsx": script,
        ".js": script,
        ".mjs": script,
        ".css": script,
        ".toml": hashes,
        ".yml": hashes,
        ".yaml": hashes,
        ".sh": hashes,
        "": hashes,  # Makefile, Dockerfile, scripts
    }.get(suffix)
    if reader is None:
        return
    for line, sentence in reader(path.read_text(encoding="utf-8")):
        yield from ((line, word, remedy) for word, remedy in wrong(sentence))


def wrong(sentence: str) -> Iterator[tuple[str, str]]:
    """The words of one sentence that it should not have, each with its remedy."""
    sentence = _CODE.sub("`…`", sentence)
    if sentence.endswith("?") or any(right in sentence for right in RIGHT):
        return
    for rule, remedy in RULES:
        for match in re.finditer(
            rule, sentence, re.IGNORECASE if rule.startswith(r"\b") or "there" in rule else 0
        ):
            yield match[0].strip(), remedy


def python(text: str) -> Iterator[tuple[int, str]]:
    """Comments, strings, and the names of tests as sentences."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            yield line, token.string.lstrip("#: ")
        elif token.type == tokenize.STRING:
            for further, part in enumerate(_sentences(token.string)):
                yield line + further, part.strip()
        elif token.type == tokenize.NAME and before == "def" and token.string.startswith("test_"):
            yield line, token.string.removeprefix("test_").replace("_", " ").capitalize()
        before = token.string


def _sentences(literal: str) -> list[str]:
    """The lines of a string; none of a name, such as ``"group.nobody"``."""
    if " " not in literal.strip("\"' "):
        return []
    text = _PREFIX.sub("", literal).rstrip("\"'")
    if "f" in literal[:2].lower():
        while (shorter := re.sub(r"{[^{}]*}", "…", text)) != text:
            text = shorter
    return text.split("\n")


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside code blocks; headings are not sentences."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith("#"):
            yield number, line.strip(" -*|>")


def script(text: str) -> Iterator[tuple[int, str]]:
    """Comments and strings of TypeScript, JavaScript and CSS."""
    for number, line in enumerate(text.splitlines(), 1):
        if comment := _SLASHES.search(line):
            yield number, next(filter(None, comment.groups()), "").strip()
        for string in _STRING.finditer(line):
            yield number, next(filter(None, string.groups()), "")


def hashes(text: str) -> Iterator[tuple[int, str]]:
    """Comments that begin with ``#``."""
    for number, line in enumerate(text.splitlines(), 1):
        if comment := _HASH.search(line):
            yield number, comment[1]


if __name__ == "__main__":
    sys.exit(main())
