"""Check untrusted JSON, names and paths before they cost memory or leave the folder.

Every function takes a value and its place for messages. It returns the value, typed, or raises `Refused` with one line.
Untrusted text is shown in messages as ASCII and cut short, so a message stays one line without control sequences for a
terminal. Nothing here reads a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from math import isinf
from typing import Any

DEPTH_LIMIT = 32
"""Depth of nested lists and objects; a manifest has about six. Python's parser would recurse for each."""

VALUES_LIMIT = 2**20
"""Values in one document, keys and items; each takes up to 200 bytes in memory. A manifest has about 60 a shard."""

COUNT_LIMIT = 2**53
"""Largest count: JSON readers of every language represent it exactly."""

SHOWN_CHARACTERS = 60

_STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
"""A JSON string, or the rest of the text where it does not end: linear time for any text, as it does not backtrack."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_PATH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?<!\.)/){0,7}[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?<!\.)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Refused(ValueError):
    """A value that this project's writers never produce; the caller adds the file's name and raises a StoreError."""


def shown(value: Any) -> str:
    """`value` for a message: ASCII, quoted, at most `SHOWN_CHARACTERS` long; a list or an object as its length."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > COUNT_LIMIT:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value[:SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def parse(data: bytes) -> Any:
    """The JSON value in `data`, UTF-8; stricter than the parser of the standard library.

    Refuses more than `DEPTH_LIMIT` levels and `VALUES_LIMIT` values (before anything is built), a key that stands twice
    in an object, NaN and infinities.
    """
    if data.count(b'"') > 2 * VALUES_LIMIT:
        raise Refused(f"more strings than {VALUES_LIMIT}")
    structure = _STRING.sub(b"", data)
    values = sum(structure.count(mark) for mark in (b",", b":", b"[", b"{"))
    if values > VALUES_LIMIT:
        raise Refused(f"{values} values; at most {VALUES_LIMIT} are read")
    brackets = structure.translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(DEPTH_LIMIT):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise Refused(f"nested more than {DEPTH_LIMIT} deep, or a bracket is missing")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
        )
    except Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {shown(str(error))}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refused(f"the key {shown(twice)} stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise Refused(f"{text[:SHOWN_CHARACTERS]} is too large a number")
    return value


def _no_constant(text: str) -> Any:
    raise Refused(f"{text} is no JSON")


def members(value: Any, keys: Collection[str], where: str) -> dict[str, Any]:
    """An object with exactly `keys`."""
    found = mapping(value, where)
    if found.keys() != set(keys):
        missing, unknown = sorted(set(keys) - found.keys()), sorted(found.keys() - set(keys))
        said = [f"{what} {shown(names[0])}" for what, names in (("no", missing), ("unknown key", unknown)) if names]
        raise Refused(f"{where}: {', '.join(said)}")
    return found


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object."""
    if type(value) is not dict:
        raise Refused(f"{where}: expected an object, got {shown(value)}")
    return value


def sequence(value: Any, where: str) -> list[Any]:
    """A list."""
    if type(value) is not list:
        raise Refused(f"{where}: expected a list, got {shown(value)}")
    return value


def count(value: Any, where: str, *, least: int = 0, most: int = COUNT_LIMIT) -> int:
    """An integer of [least, most]; true, 1.0 and "1" are none."""
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"{where}: expected an integer from {least} to {most}, got {shown(value)}")
    return value


def text(value: Any, where: str) -> str:
    """A string."""
    if type(value) is not str:
        raise Refused(f"{where}: expected a string, got {shown(value)}")
    return value


def name(value: Any, where: str) -> str:
    """A plain name: at most 64 ASCII letters, digits, "_" and "-", so that it can name a folder on any system."""
    if type(value) is not str or not _NAME.fullmatch(value):
        raise Refused(f'{where}: expected a name of letters, digits, "_" and "-", got {shown(value)}')
    return value


def path(value: Any, where: str) -> str:
    """A relative path of at most eight plain parts, which cannot leave its folder on any system.

    A part consists of letters, digits, "_", "-" and ".", and neither begins with "." or "-" nor ends with ".": no empty
    part, no "..", no root, drive, backslash or NUL.
    """
    if type(value) is not str or not _PATH.fullmatch(value):
        raise Refused(f"{where}: expected a plain relative path, got {shown(value)}")
    return value


def sha256(value: Any, where: str) -> str:
    """A SHA-256 in lower-case hexadecimal."""
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise Refused(f"{where}: expected 64 hexadecimal digits, got {shown(value)}")
    return value
