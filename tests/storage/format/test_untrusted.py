"""Untrusted JSON, names and paths give the value of the standard parser, or one line of refusal."""

from __future__ import annotations

import json
import ntpath
import posixpath
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.format import untrusted
from storage.format.untrusted import Refused

MEMORY_LIMIT_BYTES = 256 * 1024 * 1024

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(value=json_values, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_what_the_standard_library_writes_is_read(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert untrusted.parse(text.encode("utf-8", "surrogatepass")) == value


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60) | st.text('[]{}",:\\ 0e1', max_size=40).map(str.encode))
def test_any_bytes_are_read_as_the_standard_library_reads_them_or_refused(data: bytes) -> None:
    try:
        found = untrusted.parse(data)
    except Refused as error:
        said = str(error)
    else:
        assert found == json.loads(data)
        return
    assert said.isascii()
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' stands twice"),
        ("[NaN]", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[1e999]", "1e999 is too large a number"),
        ("[" * 33 + "]" * 33, "nested more than 32 deep"),
        ('{"a":' * 33 + "1" + "}" * 33, "nested more than 32 deep"),
        ("[{" * 17, "nested more than 32 deep, or a bracket is missing"),
        ("", "no JSON: 'Expecting value"),
        ("[1] [2]", "no JSON: 'Extra data"),
        ('"\\x"', "no JSON: 'Invalid"),
        ("\ufeff[]", "no JSON"),
        (f"[{'9' * 5000}]", "no JSON: 'Exceeds the limit"),
        ('["a\nb"]', "no JSON: 'Invalid control character"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        untrusted.parse(text.encode())
    assert str(caught.value).startswith(message)


def test_brackets_and_quotes_in_strings_do_not_count() -> None:
    text = json.dumps(["[" * 100 + '"' * 5 + "\\", {"}" * 100: "\\\\" * 3}])
    assert untrusted.parse(text.encode()) == json.loads(text)
    deep = "[" * 32 + '"]["' + "]" * 32
    assert untrusted.parse(deep.encode()) == json.loads(deep)


def test_not_utf8() -> None:
    with pytest.raises(Refused, match=r"no JSON: .*utf-8"):
        untrusted.parse(b'["\xff"]')


@pytest.mark.parametrize(
    "data", [b"[" * 2**24, b"," * 2**24, b'"' * 2**24, b'"' + b'\\"' * 2**23, b"[]," * 2**23, b'{"":' * 2**20]
)
def test_what_would_not_fit_is_refused_before_it_is_built(data: bytes) -> None:
    """Megabytes for which the standard parser takes gigabytes, or recurses."""
    tracemalloc.start()
    with pytest.raises(Refused, match=r"more strings than|at most 1048576 are read|nested more than"):
        untrusted.parse(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_LIMIT_BYTES


PATHS = ["a", "train/ids_PK/c/0/0", "README.md", "constants/x-1/zarr.json", "_a/_b", "a/b/c/d/e/f/g/h", "x" * 128]
NO_PATHS = [
    "",
    ".",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "./a",
    "/a",
    "//a",
    "a//b",
    "a/",
    "a\\b",
    "..\\a",
    "C:/a",
    "C:a",
    "a:b",
    "a\0b",
    "a\nb",
    "a b",
    "~",
    "~/a",
    "-rf",
    "a/-b",
    ".hidden",
    "a/.b",
    "a./b",
    "a.",
    "ä",
    "a\u202eb",
    "\uff0e\uff0e/a",
    "x" * 129,
    "a/b/c/d/e/f/g/h/i",
    "$HOME",
    "a*",
    "con\r",
    None,
    1,
    ["a"],
]


@pytest.mark.parametrize("path", PATHS)
def test_plain_paths(path: str) -> None:
    assert untrusted.path(path, "files") == path


@pytest.mark.parametrize("path", NO_PATHS)
def test_paths_that_are_refused(path: Any) -> None:
    with pytest.raises(Refused, match=r"^files: expected a plain relative path, got "):
        untrusted.path(path, "files")


@settings(deadline=None)
@given(path=st.text("abC019_-./\\:~ \0é", max_size=12))
def test_no_path_that_is_taken_leaves_its_folder(path: str) -> None:
    """Judged by how POSIX and Windows join and normalise paths."""
    try:
        untrusted.path(path, "files")
    except Refused:
        return
    assert posixpath.normpath(posixpath.join("/store", path)) == f"/store/{path}"
    assert ntpath.normpath(ntpath.join("D:\\store", path)) == "D:\\store\\" + path.replace("/", "\\")


@pytest.mark.parametrize("name", ["train", "ids_PK", "mpnet-sci", "_", "9", "x" * 64])
def test_plain_names(name: str) -> None:
    assert untrusted.name(name, "splits") == name


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a.b", "..", "a b", "x" * 65, "é", "a\n", None, 3])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(Refused, match=r"^splits: expected a name of letters"):
        untrusted.name(name, "splits")


@pytest.mark.parametrize("value", [True, False, -1, 1.0, "1", None, [1], 2**53 + 1, 10**400])
def test_what_is_no_count(value: Any) -> None:
    with pytest.raises(Refused, match=r"^rows: expected an integer from 0 to 9007199254740992, got ") as caught:
        untrusted.count(value, "rows")
    assert len(str(caught.value)) < 150


def test_counts_within_bounds() -> None:
    assert [untrusted.count(value, "rows", least=1, most=3) for value in (1, 3)] == [1, 3]
    for value in (0, 4):
        with pytest.raises(Refused, match="from 1 to 3"):
            untrusted.count(value, "rows", least=1, most=3)


def test_members_are_named() -> None:
    assert untrusted.members({"a": 1}, ["a"], "x") == {"a": 1}
    with pytest.raises(Refused, match=r"^x: no 'b', unknown key 'c'$"):
        untrusted.members({"a": 1, "c": 1}, ["a", "b"], "x")
    with pytest.raises(Refused, match=r"^x: expected an object, got a list of 2$"):
        untrusted.members([1, 2], ["a"], "x")


@pytest.mark.parametrize("value", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, 0, None])
def test_what_is_no_hash(value: Any) -> None:
    with pytest.raises(Refused, match="expected 64 hexadecimal digits"):
        untrusted.sha256(value, "identity")


@settings(deadline=None)
@given(value=json_values | st.text("\x1b\n\r\u2028é", max_size=200))
def test_untrusted_text_stays_one_short_line(value: Any) -> None:
    """No escape sequence reaches a terminal, no line break a log."""
    shown = untrusted.shown(value)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= untrusted.SHOWN_CHARACTERS
