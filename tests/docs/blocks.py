"""Fenced blocks of the README and docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

FENCE = re.compile(r"(?:^<!-- (run|needs: [^>]+) -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:\.venv/bin/)?(?:make|dvc|python -m|cohesive) [^`]+)`")
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    marker: str
    """`run`, `needs: …`, or empty."""
    language: str
    text: str


def texts() -> dict[str, str]:
    """Every page by its path."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def blocks(language: str) -> list[Block]:
    """Every block in that language."""
    return [
        Block(
            page=page,
            line=text[: found.start()].count("\n") + 1,
            marker=found[1] or "",
            language=found[2],
            text=found[3],
        )
        for page, text in texts().items()
        for found in FENCE.finditer(text)
        if found[2] == language
    ]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell script, without comments, prompts and variables."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in _split(shlex.split(re.sub("[<>]", "", line), comments=True))]
    return [words for words in map(_command, parts) if words]


def _command(words: list[str]) -> list[str]:
    """Without variables before it, and without the words of a loop around it."""
    if words and words[0] in ("for", "done"):
        return []
    if words and (words[0] == "do" or ASSIGNMENT.fullmatch(words[0])):
        return _command(words[1:])
    return words


def inline() -> dict[str, str]:
    """Commands in running text, by the page they are first on."""
    found: dict[str, str] = {}
    for page, text in texts().items():
        for command in INLINE.findall(FENCE.sub("", text)):
            found.setdefault(" ".join(command.split()), page)
    return found


def _split(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "&", "|", "||"):
            parts.append([])
        elif word.endswith(";"):
            parts[-1].append(word[:-1])
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
