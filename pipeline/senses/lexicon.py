"""A sense inventory: which senses a lemma may have, and what each means; a wordnet in WNDB form or the user's own.

Arrow tables, sealed like every store. `senses`: one row a sense key, ordered by lemma, part of speech and rank, so
that the candidates of a word are one slice. `meanings`: what a sense key points at (a synset): lemmas, gloss, examples
and the meanings directly above it. Rows are referred to by number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html.entities import html5
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.senses.params import LexiconParams
from pipeline.sources.wordnet import FILES
from pipeline.text.documents.decoding import raw_lines
from storage.errors import DataError
from storage.format.manifest import file_sha256
from storage.tables import TableStore, write_tables
from storage.work import Workspace

LEXICON = "lexicon"
REVISION = 1
POS = ("NOUN", "VERB", "ADJ", "ADV")
"""Universal tags of the words that have senses, as in Raganato et al. 2017."""
SS_TYPES = {"1": "NOUN", "2": "VERB", "3": "ADJ", "4": "ADV", "5": "ADJ"}
"""Of a WordNet sense key (senseidx(5WN)); 5 is an adjective satellite."""

SENSES = pa.schema(
    [
        ("key", pa.string()),
        ("lemma", pa.string()),
        ("pos", pa.string()),
        ("rank", pa.uint16()),
        ("count", pa.uint32()),
        ("meaning", pa.uint32()),
    ]
)
MEANINGS = pa.schema(
    [
        ("name", pa.string()),
        ("pos", pa.string()),
        ("lemmas", pa.list_(pa.string())),
        ("gloss", pa.string()),
        ("examples", pa.list_(pa.string())),
        ("above", pa.list_(pa.uint32())),
    ]
)
_ESCAPE = re.compile(r"-([a-zA-Z]*)-")

FORMS = pa.schema([("form", pa.string()), ("pos", pa.string()), ("lemma", pa.string())])
"""Inflections that no rule gives."""
SCHEMAS = {"senses": SENSES, "meanings": MEANINGS, "forms": FORMS}
ENDINGS = {
    "NOUN": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "VERB": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "ADJ": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "ADV": (),
}
"""Rules of detachment (morphy(7WN))."""
DOUBLING = ("ed", "ing", "er", "est")
"""Before these a consonant may be doubled ("stopped"); WordNet lists such forms as irregular, an own inventory not."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """An opened inventory. S senses, M meanings."""

    senses: pa.Table
    meanings: pa.Table
    forms: pa.Table
    identity: str

    @staticmethod
    def open(path: Path) -> Lexicon:
        """Read the store at `path`; raises what `TableStore` raises."""
        store = TableStore(path, kind=LEXICON, revision=REVISION, schemas=SCHEMAS, made_by="lexicon")
        return Lexicon(**{name: store.read(name) for name in SCHEMAS}, identity=store.identity)

    @cached_property
    def keys(self) -> list[str]:
        """Sense keys by row."""
        return list(self.senses["key"].to_pylist())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each sense key."""
        return {key: row for row, key in enumerate(self.keys)}

    @cached_property
    def meaning_S(self) -> NDArray[np.int64]:
        """Meaning of each sense."""
        return np.asarray(self.senses["meaning"].to_numpy().astype(np.int64))

    @cached_property
    def _slices(self) -> dict[tuple[str, str], tuple[int, int]]:
        slices: dict[tuple[str, str], tuple[int, int]] = {}
        lemmas, tags = self.senses["lemma"].to_pylist(), self.senses["pos"].to_pylist()
        for row, word in enumerate(zip(lemmas, tags, strict=True)):
            first, _ = slices.get(word, (row, row))
            slices[word] = (first, row + 1)
        return slices

    def candidates(self, lemma: str, pos: str) -> range:
        """Rows of the senses of a word, most usual first; empty when the inventory does not know it.

        The lemma is compared without case, with "_" for spaces, as WordNet writes it.
        """
        return range(*self._slices.get((normal_lemma(lemma), pos), (0, 0)))

    @cached_property
    def _listed(self) -> dict[tuple[str, str], list[str]]:
        listed: dict[tuple[str, str], list[str]] = {}
        for form, pos, lemma in zip(*(self.forms[name].to_pylist() for name in FORMS.names), strict=True):
            listed.setdefault((form, pos), []).append(lemma)
        return listed

    def stems(self, word: str, pos: str) -> tuple[str, ...]:
        """What a lower-case word may be a form of: as listed, itself, and by the rules of detachment (morphy(7WN))."""
        stems = [*self._listed.get((word, pos), ()), word]
        for ending, new in ENDINGS.get(pos, ()):
            if word.endswith(ending):
                stem = word[: -len(ending)] + new
                stems.append(stem)
                if ending in DOUBLING and stem[-1:] == stem[-2:-1]:
                    stems.append(stem[:-1])
        return tuple(dict.fromkeys(stems))

    def is_form(self, word: str, base: str, *, pos: str) -> bool:
        """True where `word` is `base` or an inflection of it, by the rules of detachment or the list of exceptions."""
        if word == base or base in self._listed.get((word, pos), ()):
            return True
        stems = {word[: -len(ending)] + new: ending for ending, new in ENDINGS[pos] if word.endswith(ending)}
        doubled = {stem[:-1] for stem, ending in stems.items() if ending in DOUBLING and stem[-1:] == stem[-2:-1]}
        return base in stems or base in doubled

    def texts(self, meanings: NDArray[np.int64], *, examples: bool) -> list[str]:
        """One text for each of some meanings, for a model to read: "lemmas: gloss", with the examples or without."""
        taken = self.meanings.take(meanings)
        rows = zip(*(taken[name].to_pylist() for name in ("lemmas", "gloss", "examples")), strict=True)
        return [
            f"{', '.join(lemmas)}: {'; '.join([gloss, *shown] if examples else [gloss])}".replace("_", " ")
            for lemmas, gloss, shown in rows
        ]


def normal_lemma(lemma: str) -> str:
    """Lower case, "_" between the words."""
    return "_".join(lemma.lower().split())


def build_lexicon(params: LexiconParams, *, out: Path, workspace: Workspace = Workspace()) -> dict[str, Any]:
    """Write the inventory as a store at `out`; returns its counts.

    Raises SourceError when WordNet is not whole, DataError for a bad line of the user's own inventory.
    """
    path = Path(params.path)
    wordnet = params.kind == "wordnet"
    senses, meanings = read_wordnet(path) if wordnet else read_inventory(path)
    files = [file for name in FILES if (file := path / name).is_file()] if wordnet else [path]
    rows = sorted(range(len(senses)), key=lambda row: (senses[row]["lemma"], senses[row]["pos"], senses[row]["rank"]))
    tables = {
        "senses": pa.Table.from_pylist([senses[row] for row in rows], schema=SENSES),
        "meanings": pa.Table.from_pylist(meanings, schema=MEANINGS),
        "forms": pa.Table.from_pylist(_exceptions(path) if wordnet else [], schema=FORMS),
    }
    facts = {
        "senses": len(senses),
        "meanings": len(meanings),
        "examples": sum(len(meaning["examples"]) for meaning in meanings),
        "words": len({(sense["lemma"], sense["pos"]) for sense in senses}),
    }
    write_tables(
        out,
        tables,
        kind=LEXICON,
        revision=REVISION,
        schemas=SCHEMAS,
        inputs={"kind": params.kind, "files": [file_sha256(file) for file in files]},
        facts=facts,
        workspace=workspace,
    )
    return facts


def read_wordnet(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Senses and meanings of a wordnet in Princeton's form (WNDB), through NLTK.

    Keys, ranks and counts are those of index.sense (senseidx(5WN)), which may be in any order. Raises SourceError when
    files are missing, DataError for files that are not in the form, with the line where it is one of index.sense.
    """
    from nltk.corpus.reader.wordnet import WordNetError

    from pipeline.sources.wordnet import open_wordnet

    try:
        wordnet = open_wordnet(folder)
        synsets = sorted(wordnet.all_synsets(), key=lambda synset: (synset.pos(), synset.offset()))
        number = {synset.name(): row for row, synset in enumerate(synsets)}
        meanings = [
            {
                "name": synset.name(),
                "pos": _universal(synset.pos()),
                "lemmas": synset.lemma_names(),
                "gloss": synset.definition(),
                "examples": synset.examples(),
                # NLTK keeps pointers in sets, whose order changes from process to process.
                "above": sorted(
                    number[higher.name()]
                    for higher in (*synset.hypernyms(), *synset.instance_hypernyms(), *_heads(synset))
                ),
            }
            for synset in synsets
        ]
    except (WordNetError, LookupError, ValueError) as error:
        raise DataError(
            f"{folder}: not a wordnet in Princeton's form (WNDB): {' '.join(str(error).split())}"
        ) from error
    by_place = {(_universal(synset.pos()), synset.offset()): row for row, synset in enumerate(synsets)}
    index = folder / "index.sense"
    senses = []
    for line, text in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            key, offset, rank, count = text.split()
            pos = SS_TYPES[key.partition("%")[2][:1]]
            meaning = by_place[pos, int(offset)]
            key = true_key(key, meanings[meaning]["lemmas"])
            values = key, key.partition("%")[0].lower(), pos, int(rank), int(count), meaning
        except (LookupError, ValueError) as error:
            raise DataError(
                f"{index}: line {line}: expected 'sense_key synset_offset sense_number tag_cnt' of a synset of the "
                f"data files, got {text[:80]!r}"
            ) from error
        senses.append(dict(zip(SENSES.names, values, strict=True)))
    return senses, meanings


def true_key(key: str, lemmas: Sequence[str]) -> str:
    """A sense key as Princeton writes it: Open English WordNet 2025 spells characters out in index.sense.

    "-apos-" is "'", and so on by the names of HTML's entities; "--" is "-" (achilles-apos-_heel, air--drop).
    Princeton's own keys hold such names too ("rock-and-roll"), so a key is changed only where its lemma is none of its
    synset's `lemmas` as it stands, and is one afterwards.
    """
    names = {lemma.lower() for lemma in lemmas}
    if key.partition("%")[0] in names:
        return key
    plain = _ESCAPE.sub(lambda found: html5.get(f"{found[1]};", found[0]) if found[1] else "-", key)
    return plain if plain.partition("%")[0] in names else key


def _heads(synset: Any) -> list[Any]:
    """What a satellite adjective is similar to; a head has its satellites there, which lie below it."""
    return list(synset.similar_tos()) if synset.pos() == "s" else []


def _exceptions(folder: Path) -> list[dict[str, str]]:
    """The lists of irregular forms, noun.exc and its like: a form and its lemmas a line."""
    return [
        {"form": form, "pos": pos, "lemma": lemma}
        for name, pos in (("noun", "NOUN"), ("verb", "VERB"), ("adj", "ADJ"), ("adv", "ADV"))
        if (folder / f"{name}.exc").is_file()
        for form, *lemmas in map(str.split, (folder / f"{name}.exc").read_text(encoding="utf-8").splitlines())
        for lemma in lemmas
    ]


def read_inventory(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The user's own inventory: JSON Lines {"key", "lemma", "pos", "gloss"} with optional "examples" and "lemmas".

    One line a sense, the most usual sense of a word first; senses are ranked by their order. pos is one of NOUN, VERB,
    ADJ, ADV. Raises DataError with the number of the first line that is not so, or whose key came before.
    """
    senses: list[dict[str, Any]] = []
    meanings: list[dict[str, Any]] = []
    seen: set[str] = set()
    ranks: dict[tuple[str, str], int] = {}
    for number, entry in _json_lines(path):
        where = f"{path}: line {number}"
        for name in ("key", "lemma", "pos", "gloss"):
            if not isinstance(entry.get(name), str) or not entry[name].strip():
                raise DataError(f"{where}: expected a text under '{name}', got {entry.get(name)!r}")
        if entry["pos"] not in POS:
            raise DataError(f"{where}: expected pos to be one of {', '.join(POS)}, got {entry['pos']!r}")
        if entry["key"] in seen or any(character.isspace() for character in entry["key"]):
            raise DataError(f"{where}: key {entry['key']!r} came before or holds a space")
        for name in ("examples", "lemmas"):
            items = entry.get(name, [])
            if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
                raise DataError(f"{where}: expected '{name}' to be a list of texts")
        seen.add(entry["key"])
        word = normal_lemma(entry["lemma"]), entry["pos"]
        ranks[word] = ranks.get(word, 0) + 1
        values = entry["key"], *word, ranks[word], 0, len(meanings)
        senses.append(dict(zip(SENSES.names, values, strict=True)))
        meanings.append(
            {
                "name": entry["key"],
                "pos": word[1],
                "lemmas": entry.get("lemmas") or [entry["lemma"]],
                "gloss": entry["gloss"],
                "examples": entry.get("examples", []),
                "above": [],
            }
        )
    if not senses:
        raise DataError(f"{path}: no sense in it")
    return senses, meanings


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(raw_lines(path, lambda _: None), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair is no character
        except ValueError as error:
            raise DataError(f"{path}: line {number}: no JSON in UTF-8: {error}") from error
        if not isinstance(entry, dict):
            raise DataError(f"{path}: line {number}: expected an object, got {type(entry).__name__}")
        yield number, entry


def _universal(pos: str) -> str:
    """NLTK's one-letter part of speech as a universal tag; a satellite is an adjective."""
    return {"n": "NOUN", "v": "VERB", "a": "ADJ", "s": "ADJ", "r": "ADV"}[pos]
