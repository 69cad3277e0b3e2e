"""What readers yield: documents as they stand in the input, and records that are none, with their place."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TEXT_LIMIT = 2**28
"""Characters of a document, of up to four bytes: a column of a record batch is addressed by 31 bits."""


@dataclass(frozen=True, slots=True)
class Found:
    """One document as it stands in the input."""

    where: str
    """File and line."""
    name: str | None
    """Its id in the input, when it has one."""
    source: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that is no document."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Names of a record's fields; "doc.text" names the field `text` in the field `doc`."""

    text: str
    name: str | None
    """None: "id" where a record has it."""


def printable(name: bytes) -> str:
    """An id of bytes: its text where it is some, else hexadecimal digits."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return f"0x{name.hex()}"
    return text if text.isprintable() else f"0x{name.hex()}"


def lookup(value: dict[str, Any], name: str) -> Any:
    """A field by its name, or by the path to it where no field has a name with dots; None when it is not there."""
    if name in value or "." not in name:
        return value.get(name)
    found: Any = value
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def record(value: Any, fields: Fields, where: str, *, id_of: Callable[[bytes], str] = printable) -> Found | Rejected:
    """A record as a document. Text may be bytes of UTF-8, an id bytes or a UUID; `id_of` makes text of such bytes."""
    if not isinstance(value, dict):
        return Rejected(where, f"expected an object, got {type(value).__name__}")
    text = lookup(value, fields.text)
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            return Rejected(
                where,
                f"byte {error.start + 1} of field '{fields.text}' is 0x{text[error.start]:02x}, which is no UTF-8. "
                "Write the column as strings",
            )
    if not isinstance(text, str):
        return Rejected(
            where, f"expected a string in field '{fields.text}', got {text!r:.60} (has {sorted(value)[:8]})"
        )
    name = lookup(value, fields.name or "id")
    if isinstance(name, bytes):
        name = id_of(name)
    elif isinstance(name, uuid.UUID):
        name = str(name)
    if isinstance(name, bool) or not isinstance(name, str | int | None) or (fields.name and name in (None, "")):
        return Rejected(where, f"expected a string or whole number in field '{fields.name or 'id'}', got {name!r:.60}")
    source = value.get("source")
    found = Found(
        where, str(name) if name not in (None, "") else None, source if isinstance(source, str) else None, text
    )
    try:
        "".join((found.text, found.name or "", found.source or "")).encode()
    except UnicodeEncodeError:
        return Rejected(where, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return found
