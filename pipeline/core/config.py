"""Read params.yaml once into frozen sections; refuse what is unknown or impossible by its dotted path.

A section's class is defined in the module that owns it and derives from `Section`. Pydantic does the checking; this
module turns its first complaint into one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import ParamsError


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion (an int is accepted for a float)."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of keys to present ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)


S = TypeVar("S", bound=Section)


class _GivenTwiceError(yaml.YAMLError):
    """A key is given twice in one mapping; PyYAML would silently keep the last."""


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads and writes it: 1e-4 and 5e-05 are numbers, and a key may be given once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and refuse repeated keys; this runs before `<<` merges others into it."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in first:
                before = first[key.value]
                raise _GivenTwiceError(f"line {line}: key '{key.value}' is given twice, first on line {before}")
            first[key.value] = line
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path) -> dict[str, Any]:
    """The whole of params.yaml as plain data; raises ParamsError when it is no YAML mapping or gives a key twice."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # _Loader is a safe one
    except _GivenTwiceError as error:
        raise ParamsError(f"{path}: {error}. Remove one of the two") from None
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found. Run from the folder that holds params.yaml") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected a mapping of sections, got {type(raw).__name__}")
    return raw


def section(path: Path, dotted: str, kind: type[S]) -> S:
    """Decode the section at `dotted`, for example "teachers.wordnet-things", as `kind`.

    Raises ParamsError naming file, dotted path, what is wrong and the nearest valid key.
    """
    value: Any = load(path)
    walked: list[str] = []
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            where = ".".join(walked) or "top level"
            raise ParamsError(f"{path}: {where}: no key '{key}'{nearest(key, value)}")
        walked.append(key)
        value = value[key]
    return decode(value, kind, where=f"{path}: {dotted}")


def decode(value: Any, kind: type[S], *, where: str) -> S:
    """Check plain data against `kind`; `where` begins the message of the ParamsError."""
    if not isinstance(value, dict):
        raise ParamsError(f"{where}: expected a mapping, got {value!r}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ParamsError(_first_complaint(error, kind, where)) from None


def nearest(key: str, options: Any) -> str:
    """A hint " (did you mean 'x'?)" when an option is close to `key`."""
    found = difflib.get_close_matches(key, [str(option) for option in options or ()], n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _first_complaint(error: ValidationError, kind: type[Section], where: str) -> str:
    # Unknown keys first: a mistyped key shows up as unknown and as missing, and only the former helps.
    complaints = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = complaints[0]
    parts = _without_tags(kind, [str(part) for part in first["loc"]])
    dotted = ".".join([where, *parts])
    if first["type"] == "extra_forbidden":
        owner = _kind_at(kind, [str(part) for part in first["loc"][:-1]])
        new = getattr(owner, "renamed", {}).get(parts[-1])
        hint = nearest(parts[-1], getattr(owner, "model_fields", {})) if new is None else f": it is now '{new}'"
        return f"{'.'.join([where, *parts[:-1]])}: unknown key '{parts[-1]}'{hint}"
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        context = first["ctx"]
        dotted += "." + context["discriminator"].strip("'")
        if first["type"] == "union_tag_not_found":
            return f"{dotted}: missing"
        return f"{dotted}: expected one of {context['expected_tags']}, got '{context['tag']}'"
    if first["type"] == "missing":
        return f"{dotted}: missing"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    return f"{dotted}: {message}{got}"


def _kind_at(kind: Any, path: list[str]) -> Any:
    """The section at a path under a section, or None."""
    for step in path:
        kind = _below(kind, step)
    return kind


def _without_tags(kind: Any, path: list[str]) -> list[str]:
    """The keys of a path: pydantic also names the member of a union that it chose, which is nowhere in the file."""
    keys = []
    for step in path:
        if _tagged(kind, step) is None:
            keys.append(step)
        kind = _below(kind, step)
    return keys


def _below(kind: Any, step: str) -> Any:
    """The section under a key of a section, or the member of a union that a tag names; else None."""
    field = getattr(kind, "model_fields", {}).get(step)
    return _tagged(kind, step) if field is None else field.annotation


def _tagged(kind: Any, step: str) -> Any:
    """The member of a union of sections that allows `step` as the literal value of a key."""
    for member in get_args(kind):
        values = [get_args(field.annotation) for field in getattr(member, "model_fields", {}).values()]
        if any(step in allowed for allowed in values):
            return member
    return None
