"""Which piece of one vocabulary is which piece of another.

Pieces are compared in one spelling: "▁dog" begins a word, "dog" continues one, "[MASK]" is the special token of that
role whatever the tokenizer calls it. WordPiece ("##"), byte-level BPE ("Ġ", bytes written as letters), SentencePiece
("▁") and whole-word vocabularies are brought to it. A bridge matches equal spellings first, then lower case and letters
without accents where the student's vocabulary knows no others. Nothing is matched by likeness: a piece without a
counterpart is counted, and its probability goes to the tail in `pipeline.fuse.fuse`, never to zero.

A space mark is a spelling, not a cut. Where the student's vocabulary has none, a teacher's punctuation is the same with
and without a space before it, and a word that begins without a space is named by its piece with the mark
(`space_variants`).
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
"""Begins a piece that begins a word; SentencePiece's own mark (U+2581)."""

ROLES = {"pad": "[PAD]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"}
HOLE = re.compile(r"\[hole \d+\]")
BRACKETED = re.compile(r"[\[<].+[\]>]")
"""Special and reserved pieces: their capitals do not make a vocabulary cased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bridge:
    """Where each piece of a teacher's vocabulary lies in the student's."""

    to_student_V: NDArray[np.int64]
    """Student id of each teacher id; -1 where there is no counterpart."""
    coverage: dict[str, int]
    """Teacher pieces by how they were matched: "exact", "folded", "none"; they add up to the vocabulary."""


def encode_pieces(pieces: list[str]) -> NDArray[np.uint8]:
    """The pieces as the bytes of a JSON list, to be kept in a store."""
    return np.frombuffer(json.dumps(pieces, ensure_ascii=False, separators=(",", ":")).encode(), np.uint8)


def decode_pieces(pieces_utf8: NDArray[np.uint8]) -> list[str]:
    """The pieces `encode_pieces` wrote; raises VocabularyError when the bytes are no list of strings."""
    try:
        pieces = json.loads(pieces_utf8.tobytes().decode())
    except ValueError as error:
        raise VocabularyError(f"pieces_utf8: expected a JSON list of pieces: {error}") from error
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise VocabularyError("pieces_utf8: expected a JSON list of strings, got other values")
    return pieces


def normalised_pieces(backend: Any, *, special: dict[str, int]) -> list[str]:
    """The piece of every id of a `tokenizers.Tokenizer`, in the common spelling; `special` gives each role's id.

    Ids without a piece, below the largest id in use, read "[hole 7]". Punctuation begins a word of its own whether or
    not a space stands before it, as WordPiece cuts it; with an explicit space it is another piece ("▁▁,").
    Raises VocabularyError for a tokenizer that is none of the four kinds.
    """
    description = json.loads(backend.to_str())
    spell = _speller(description)
    found = backend.get_vocab(with_added_tokens=True)
    pieces = [f"[hole {number}]" for number in range(1 + max(found.values()))]
    for piece, number in found.items():
        pieces[number] = spell(piece)
    for entry in description["added_tokens"]:  # spelt as they stand in a text
        pieces[entry["id"]] = entry["content"] if entry["special"] else START + entry["content"]
    for role, number in special.items():
        pieces[number] = ROLES[role]
    return pieces


def bridge(teacher: list[str], student: list[str]) -> Bridge:
    """Match a teacher's pieces to a student's: equal spelling first, then folded as far as the student is.

    Lower case is tried when no piece of the student has capitals, letters without accents when none has accents;
    several teacher pieces may then share a student id ("The" and "the"). Of equal student pieces the first counts.
    """
    index: dict[str, int] = {}
    for number, piece in enumerate(student):
        if not HOLE.fullmatch(piece):
            index.setdefault(piece, number)
    ordinary = [piece for piece in index if not _is_bracketed(piece)]
    unmarked = not marks_spaces(student)
    folds = [fold for fold in (str.lower, _without_accents) if all(fold(piece) == piece for piece in ordinary)]
    to_student_V = np.full(len(teacher), -1, np.int64)
    counts = {"exact": 0, "folded": 0, "none": 0}
    for number, piece in enumerate(teacher):
        match = index.get(piece, -1)
        how = "exact"
        if match < 0:
            how = "folded"
            folded = piece
            if unmarked and _is_spaced_punctuation(piece):
                folded = piece.removeprefix(START)
                match = index.get(folded, match)
            for fold in () if _is_bracketed(piece) else folds:
                folded = fold(folded)
                match = index.get(folded, match)
        to_student_V[number] = match
        counts["none" if match < 0 else how] += 1
    return Bridge(to_student_V=to_student_V, coverage=counts)


def marks_spaces(pieces: list[str]) -> bool:
    """Whether a vocabulary in the common spelling writes the space before a word: those that do have it alone too."""
    return START in pieces


def space_variants(teacher: list[str], student: list[str]) -> NDArray[np.int64] | None:
    """Exchanges the ids of each word's piece with and without the space mark [Vt]; other ids are themselves.

    None unless the teacher marks spaces and the student does not. Applied to a distribution at a word that begins
    without a space ("(dog"), it names the word as everywhere else, so that one bridge serves all places. Punctuation
    begins a word either way and is left as it is.
    """
    if not marks_spaces(teacher) or marks_spaces(student):
        return None
    index = {piece: number for number, piece in reversed([*enumerate(teacher)])}
    variant_V = np.arange(len(teacher))
    for number, piece in enumerate(teacher):
        other = index.get(START + piece)
        if other is not None and index[piece] == number and not piece.startswith(START) and not _is_bracketed(piece):
            variant_V[number], variant_V[other] = other, number
    return variant_V


def _is_spaced_punctuation(piece: str) -> bool:
    return piece.startswith(2 * START) and all(is_punctuation(letter) for letter in piece[2:])


def _is_bracketed(piece: str) -> bool:
    return BRACKETED.fullmatch(piece.removeprefix(START)) is not None


def _without_accents(text: str) -> str:
    """Drop combining marks after decomposition, as uncased BERT does."""
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")


def _speller(description: dict[str, Any]) -> Callable[[str], str]:
    """How this kind of tokenizer writes a piece, turned into the common spelling."""
    model = description["model"]
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        return lambda piece: piece.removeprefix(prefix) if piece.startswith(prefix) else START + piece
    if model["type"] == "WordLevel":
        return lambda piece: START + piece
    parts = json.dumps([description["pre_tokenizer"], description["decoder"]])
    if '"ByteLevel"' in parts:
        return _spell_bytes
    pieces = model["vocab"]
    names = pieces if isinstance(pieces, dict) else [piece for piece, _ in pieces]
    if '"Metaspace"' in parts or any(piece.startswith(START) for piece in names):
        return _spell_marked
    raise VocabularyError(
        f"tokenizer: pieces of a {model['type']} model without ByteLevel or Metaspace; "
        "supported: WordPiece, byte-level BPE, SentencePiece (Unigram or BPE), WordLevel"
    )


def _spell_marked(piece: str) -> str:
    """A piece that begins with START when a space precedes it."""
    word = piece.removeprefix(START)
    return START + piece if word and all(is_punctuation(letter) for letter in word) else piece


def _spell_bytes(piece: str) -> str:
    """A piece of byte-level BPE: letters stand for bytes, "Ġ" for a space; parts of a character are named by byte."""
    if not all(letter in BYTE_OF_LETTER for letter in piece):
        return piece
    raw = bytes(BYTE_OF_LETTER[letter] for letter in piece)
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
