"""Map the tokens of one vocabulary to those of another.

Tokens are compared in one spelling: "▁dog" begins a word, "dog" continues one, "[MASK]" is the special token of that
role, whatever the tokenizer's own name for it. WordPiece ("##"), byte-level BPE ("Ġ", bytes written as letters),
SentencePiece ("▁") and whole-word vocabularies are converted to it. A bridge matches equal spellings first, then lower
case and letters without accents where the student's vocabulary knows no others. Nothing is matched by similarity. A
token without a counterpart is counted, and its probability goes to the tail in `pipeline.fuse.fuse`; it is never
dropped.

A space mark changes a token's spelling, not where words are cut. Where the student's vocabulary has none, a teacher's
punctuation is the same with and without a space before it, and a word that begins without a space is named by its token
with the mark (`space_variants`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import VocabularyError

START = "▁"
"""Begins a token that begins a word; SentencePiece's own mark (U+2581)."""

ROLES = {"pad": "[PAD]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"}
HOLE = re.compile(r"\[hole \d+\]")
BRACKETED = re.compile(r"[\[<].+[\]>]")
"""Special and reserved tokens: their capitals do not make a vocabulary cased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bridge:
    """Where each token of a teacher's vocabulary lies in the student's."""

    to_student_V: NDArray[np.int64]
    """Student id of each teacher id; -1 where there is no counterpart."""
    coverage: dict[str, int]
    """Teacher tokens by how they were matched: "exact", "folded", "none"; they sum to the vocabulary's size."""


def encode_tokens(tokens: list[str]) -> NDArray[np.uint8]:
    """The tokens as the bytes of a JSON list, for a store's constant."""
    return np.frombuffer(json.dumps(tokens, ensure_ascii=False, separators=(",", ":")).encode(), np.uint8)


def decode_tokens(pieces_utf8: NDArray[np.uint8]) -> list[str]:
    """The tokens `encode_tokens` wrote; raises VocabularyError when the bytes are no list of strings."""
    try:
        tokens = json.loads(pieces_utf8.tobytes().decode())
    except ValueError as error:
        raise VocabularyError(f"pieces_utf8: expected a JSON list of tokens: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise VocabularyError("pieces_utf8: expected a JSON list of strings, got other values")
    return tokens


def normalised_tokens(backend: Any, *, special: dict[str, int]) -> list[str]:
    """The token of every id of a `tokenizers.Tokenizer`, in the common spelling; `special` gives each role's id.

    Ids without a token, below the largest id in use, read "[hole 7]". Punctuation begins a word of its own whether or
    not a space stands before it, as WordPiece cuts it; with an explicit space it is another token ("▁▁,").
    Raises VocabularyError for a tokenizer that is none of the four kinds.
    """
    description = json.loads(backend.to_str())
    spell = _speller(description)
    found = backend.get_vocab(with_added_tokens=True)
    tokens = [f"[hole {number}]" for number in range(1 + max(found.values()))]
    for token, number in found.items():
        tokens[number] = spell(token)
    for entry in description["added_tokens"]:  # their content is spelt as in a text
        tokens[entry["id"]] = entry["content"] if entry["special"] else START + entry["content"]
    for role, number in special.items():
        tokens[number] = ROLES[role]
    return tokens


def bridge(teacher: list[str], student: list[str]) -> Bridge:
    """Match a teacher's tokens to a student's: equal spelling first, then folded as far as the student is.

    Lower case is tried when no token of the student has capitals, letters without accents when none has accents;
    several teacher tokens may then share a student id ("The" and "the"). Of equal student tokens the first counts.
    """
    index: dict[str, int] = {}
    for number, token in enumerate(student):
        if not HOLE.fullmatch(token):
            index.setdefault(token, number)
    ordinary = [token for token in index if not _is_bracketed(token)]
    unmarked = not marks_spaces(student)
    folds = [fold for fold in (str.lower, _without_accents) if all(fold(token) == token for token in ordinary)]
    to_student_V = np.full(len(teacher), -1, np.int64)
    counts = {"exact": 0, "folded": 0, "none": 0}
    for number, token in enumerate(teacher):
        match = index.get(token, -1)
        how = "exact"
        if match < 0:
            how = "folded"
            folded = token
            if unmarked and _is_spaced_punctuation(token):
                folded = token.removeprefix(START)
                match = index.get(folded, match)
            for fold in () if _is_bracketed(token) else folds:
                folded = fold(folded)
                match = index.get(folded, match)
        to_student_V[number] = match
        counts["none" if match < 0 else how] += 1
    return Bridge(to_student_V=to_student_V, coverage=counts)


def marks_spaces(tokens: list[str]) -> bool:
    """Whether a vocabulary in the common spelling marks the space before a word: then it has the mark alone too."""
    return START in tokens


def space_variants(teacher: list[str], student: list[str]) -> NDArray[np.int64] | None:
    """Ids [Vt] that exchange each word's token with and without the space mark; other ids map to themselves.

    None unless the teacher marks spaces and the student does not. Applied to a distribution at a word that begins
    without a space ("(dog"), it moves the word's probability to the token with the mark, so one bridge serves all
    places. Punctuation begins a word either way and is left as it is.
    """
    if not marks_spaces(teacher) or marks_spaces(student):
        return None
    index = {token: number for number, token in reversed([*enumerate(teacher)])}
    variant_V = np.arange(len(teacher))
    for number, token in enumerate(teacher):
        other = index.get(START + token)
        if other is not None and index[token] == number and not token.startswith(START) and not _is_bracketed(token):
            variant_V[number], variant_V[other] = other, number
    return variant_V


def _is_spaced_punctuation(token: str) -> bool:
    return token.startswith(2 * START) and all(is_punctuation(letter) for letter in token[2:])


def _is_bracketed(token: str) -> bool:
    return BRACKETED.fullmatch(token.removeprefix(START)) is not None


def _without_accents(text: str) -> str:
    """Drop combining marks after decomposition, as uncased BERT does."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")


def _speller(description: dict[str, Any]) -> Callable[[str], str]:
    """A function from this kind of tokenizer's spelling of a token to the common one."""
    model = description["model"]
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        return lambda token: token.removeprefix(prefix) if token.startswith(prefix) else START + token
    if model["type"] == "WordLevel":
        return lambda token: START + token
    parts = json.dumps([description["pre_tokenizer"], description["decoder"]])
    if '"ByteLevel"' in parts:
        return _spell_bytes
    tokens = model["vocab"]
    names = tokens if isinstance(tokens, dict) else [token for token, _ in tokens]
    if '"Metaspace"' in parts or any(token.startswith(START) for token in names):
        return _spell_marked
    raise VocabularyError(
        f"tokenizer: tokens of a {model['type']} model without ByteLevel or Metaspace; "
        "supported: WordPiece, byte-level BPE, SentencePiece (Unigram or BPE), WordLevel"
    )


def _spell_marked(token: str) -> str:
    """A token that begins with START when a space precedes it."""
    word = token.removeprefix(START)
    return START + token if word and all(is_punctuation(letter) for letter in word) else token


def _spell_bytes(token: str) -> str:
    """A token of byte-level BPE: letters stand for bytes, "Ġ" for a space; parts of a character are named by byte."""
    if not all(letter in BYTE_OF_LETTER for letter in token):
        return token
    raw = bytes(BYTE_OF_LETTER[letter] for letter in token)
    mark = START if raw.startswith(b" ") else ""
    word = raw[len(mark) :]
    try:
        return _spell_marked(mark + word.decode())
    except UnicodeDecodeError:
        return f"{mark}[bytes {word.hex(' ')}]"


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for letters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()


def is_punctuation(letter: str) -> bool:
    """BERT's rule: all ASCII symbols, and Unicode punctuation."""
    return (letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " ") or (
        unicodedata.category(letter).startswith("P")
    )
