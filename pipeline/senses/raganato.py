"""Read sense-annotated text in the layout of Raganato et al. 2017 (https://aclanthology.org/E17-1010).

`X.data.xml` holds corpus > text > sentence > wf and instance; `X.gold.key.txt` one line an instance: its id, then its
sense keys. Either may be compressed (.gz, .zst). Sentences are streamed: memory is one file chunk and the ids so far,
by which duplicates are found.

Errors. Refused, with file and line: files that are no XML, no UTF-8 or cut short, elements or text
where the layout has none, entity declarations, missing ids, an instance without lemma, part of speech or text,
duplicate ids, a gold line without a key. Kept, and counted by `check`: sentences and words without text, instances of
a part of speech that is not WordNet's (they have no candidates), instances without gold, gold without instance,
keys that the inventory lacks. Refused when these are too many to be slips: no instance with a part of speech of
WordNet's, less than `IN_COMMON` of the ids in both files, more than `UNKNOWN_SHARE` of the words without a key of the
inventory (ids of BabelNet, keys of another WordNet), which could never be answered rightly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import NoReturn
from xml.parsers import expat

from pipeline.text.documents.decoding import raw_chunks, raw_lines
from storage.errors import DataError

PARTS = {"NOUN": "n", "VERB": "v", "ADJ": "a", "ADV": "r"}
"""Tags of instances, and WordNet's letter of each; adjectives include satellites."""

PARENTS = {"corpus": None, "text": "corpus", "sentence": "text", "wf": "sentence", "instance": "sentence"}
COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""First bytes of compressed files."""

IN_COMMON = 0.5
"""Share of the instances that need gold, and of the gold that needs an instance: below it the files are no pair."""

UNKNOWN_SHARE = 0.05
"""Share of the gold words that may have no key of the inventory: above it the keys are those of another one."""

_MARKER = re.compile(r"\((?:a|p|ip)\)")
_BABELNET = re.compile(r"bn:\d{8}[nvar]")
_SET = re.compile(r"(.+?)\.d\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One word, or several that WordNet has as one ("took place")."""

    text: str
    lemma: str
    """Words of one lemma are joined by "_"; "" where a <wf> has none."""
    pos: str
    """NOUN, VERB, ADJ or ADV for instances that can be answered; anything for others."""
    instance: str | None
    """Id of an <instance>; None for a <wf>."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """One sentence in reading order."""

    sentence_id: str
    document_id: str
    source: str
    """Name of the set it is from, as `set_name` tells it."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a pair of data and gold holds."""

    documents: int
    sentences: int
    tokens: int
    instances: int
    empty_sentences: int
    empty_tokens: int
    """<wf> without text."""
    unknown_pos: int
    """Instances whose part of speech is none of `PARTS`."""
    without_gold: int
    """Instances without gold: neither scored nor learned from."""
    without_instance: int
    """Gold that has no instance in the data: never answered, so it lowers recall, as in the official scorer."""
    several_keys: int
    """Gold lines with more than one key."""
    unknown_keys: int
    """Keys in the gold that `known` does not accept."""


def read_sentences(path: Path) -> Iterator[Sentence]:
    """The sentences of `X.data.xml[.gz|.zst]`, in order, those without tokens included.

    Raises DataError by the rules above; what came before the fault has been yielded by then.
    """
    layout = _Layout(path)
    _require_readable(path)
    for chunk in raw_chunks(path, _unheeded):
        layout.feed(chunk, final=False)
        yield from layout.taken()
    layout.feed(b"", final=True)
    yield from layout.taken()
    if not layout.sentence_ids:
        raise DataError(f"{path}: no <sentence> in it; expected corpus > text > sentence > wf, instance")


def read_gold(path: Path) -> dict[str, tuple[str, ...]]:
    """Sense keys by instance id, in file order, without adjective markers; raises DataError for a bad line."""
    gold: dict[str, tuple[str, ...]] = {}
    for where, instance, keys in key_lines(path):
        if not keys:
            raise DataError(f"{where}: instance '{instance}' has no sense key; expected 'id key [key ...]'")
        if instance in gold:
            raise DataError(f"{where}: instance '{instance}' occurs a second time")
        gold[instance] = keys
    if not gold:
        raise DataError(f"{path}: empty; expected lines of 'id key [key ...]'")
    return gold


def key_lines(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Place, instance id and keys of each line that is not empty; any white space separates.

    The same key twice in a line counts once. Raises DataError for what is no key file in UTF-8.
    """
    _require_readable(path)
    for number, raw in enumerate(raw_lines(path, _unheeded), start=1):
        where = f"{path}: line {number}"
        try:
            instance, *keys = raw.decode("utf-8-sig" if number == 1 else "utf-8").split() or ("",)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8: {error}") from error
        if instance.startswith("<"):
            raise DataError(f"{where}: looks like XML; expected the key file, lines of 'id key [key ...]'")
        if instance:
            yield where, instance, tuple(dict.fromkeys(map(normalise, keys)))


def normalise(key: str) -> str:
    """The sense key without adjective markers (a), (p), (ip), which WordNet's own keys do not have."""
    return _MARKER.sub("", key)


def set_name(name: str, *, path: Path) -> str:
    """The set that an id belongs to: "senseval2" of "senseval2.d000.s001.t002", else the file's name without endings.

    Files of several sets, such as ALL.data.xml, have the set in their ids.
    """
    found = _SET.match(name)
    if found:
        return found[1]
    return re.sub(r"(\.data)?(\.xml)?(\.gz|\.zst)?$", "", path.name) or path.name


def check(
    sentences: Iterable[Sentence],
    gold: Mapping[str, tuple[str, ...]],
    *,
    files: tuple[Path, Path] | None = None,
    known: Callable[[str], bool] | None = None,
) -> Counts:
    """Count what data and gold hold, reading `sentences` once; `known` says whether the sense inventory has a key.

    Raises DataError when there is no instance, or none of a part of speech of `PARTS`; when fewer than `IN_COMMON` of
    the instances or of the gold are in both, so that the gold is that of other data; and what `require_known` raises.
    `files` (data, gold) are named in the message.
    """
    documents: set[str] = set()
    first = first_pos = ""
    seen: Counter[str] = Counter()
    for sentence in sentences:
        documents.add(sentence.document_id)
        instances = [token for token in sentence.tokens if token.instance is not None]
        first = first or next((token.instance or "" for token in instances), "")
        first_pos = first_pos or next((token.pos for token in instances), "")
        seen["sentences"] += 1
        seen["tokens"] += len(sentence.tokens)
        seen["instances"] += len(instances)
        seen["matched"] += sum(token.instance in gold for token in instances)
        seen["empty_sentences"] += not sentence.tokens
        seen["empty_tokens"] += sum(not token.text for token in sentence.tokens)
        seen["unknown_pos"] += sum(token.pos not in PARTS for token in instances)
    matched = seen.pop("matched", 0)
    names = [str(file) for file in files] if files else ["data", "gold"]
    if not seen["instances"]:
        raise DataError(f"{names[0]}: no <instance> in it, so nothing has a sense")
    if matched < IN_COMMON * max(seen["instances"], len(gold)):
        raise DataError(
            f"{names[1]}: gold of other data than {names[0]}: {matched} ids in common of {seen['instances']} instances "
            f"(first '{first}') and {len(gold)} gold lines (first '{next(iter(gold), '')}'); "
            f"expected at least {IN_COMMON:.0%} of both"
        )
    if seen["unknown_pos"] == seen["instances"]:
        raise DataError(
            f"{names[0]}: none of {seen['instances']} instances has a part of speech of {', '.join(PARTS)} (the first "
            f"has pos='{first_pos}'), so no word has senses. Write the tags that way"
        )
    if known is not None:
        require_known(gold, known, where=names[1])
    return Counts(
        **seen,
        documents=len(documents),
        without_gold=seen["instances"] - matched,
        without_instance=len(gold) - matched,
        several_keys=sum(len(keys) > 1 for keys in gold.values()),
        unknown_keys=sum(not known(key) for keys in gold.values() for key in keys) if known else 0,
    )


def require_known(gold: Mapping[str, tuple[str, ...]], known: Callable[[str], bool], *, where: str) -> None:
    """Raise DataError when the inventory has no key of more than `UNKNOWN_SHARE` of the words of `gold`."""
    strange = [(instance, keys) for instance, keys in gold.items() if not any(map(known, keys))]
    if len(strange) > UNKNOWN_SHARE * len(gold):
        instance, keys = strange[0]
        kind = "an id of BabelNet" if _BABELNET.fullmatch(keys[0]) else "of another inventory or version"
        raise DataError(
            f"{where}: {len(strange)} of {len(gold)} words have no sense key of the inventory (first '{instance} "
            f"{keys[0]}', {kind}); expected at most {UNKNOWN_SHARE:.0%}. Give the file in the inventory's keys (those "
            "of Raganato et al. 2017 are WordNet 3.0's), or learn and score with the inventory that these keys are of"
        )


class _Layout:
    """Follows the elements of one file with expat, which knows lines, and collects finished sentences."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sentence_ids: set[str] = set()
        self.instance_ids: set[str] = set()
        self._finished: list[Sentence] = []
        self._open: list[str] = []
        self._document = self._sentence = ""
        self._tokens: list[Token] = []
        self._attributes: dict[str, str] = {}
        self._text: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        # With a DOCTYPE that names another file, expat leaves out unknown entities instead of complaining.
        self._parser.SkippedEntityHandler = self._entity

    def feed(self, chunk: bytes, *, final: bool) -> None:
        """Parse the next bytes; `final` closes the file."""
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            if self._parser.CurrentByteIndex <= 0 and final:
                raise DataError(f"{self.path}: empty; expected corpus > text > sentence > wf, instance") from error
            cause = "not XML, or cut short, or not in its encoding (UTF-8 unless declared)"
            raise DataError(f"{self.path}: line {error.lineno}: {cause}: {expat.ErrorString(error.code)}") from error
        except (LookupError, ValueError) as error:
            raise DataError(f"{self.path}: line 1: its encoding is not supported: {error}; expected UTF-8") from error

    def taken(self) -> list[Sentence]:
        """Sentences that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else None
        if tag not in PARENTS or PARENTS[tag] != parent:
            place = f"inside <{parent}>" if parent else "as the outermost element"
            self._refuse(f"<{tag}> {place}; expected corpus > text > sentence > wf, instance")
        self._open.append(tag)
        if tag == "text":
            self._document = self._id(tag, attributes)
        elif tag == "sentence":
            self._sentence = self._id(tag, attributes, met=self.sentence_ids)
            self._tokens = []
        elif tag in {"wf", "instance"}:
            self._attributes, self._text = attributes, []

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag == "sentence":
            ids = {"sentence_id": self._sentence, "document_id": self._document}
            source = intern(set_name(self._sentence, path=self.path))
            self._finished.append(Sentence(**ids, source=source, tokens=tuple(self._tokens)))
        elif tag in {"wf", "instance"}:
            self._tokens.append(self._token(tag))

    def _token(self, tag: str) -> Token:
        # Interned: a corpus has 20 times as many words as different ones.
        text = intern(" ".join("".join(self._text).split()))
        lemma, pos = (intern(self._attributes.get(name, "")) for name in ("lemma", "pos"))
        if tag == "wf":
            return Token(text=text, lemma=lemma, pos=pos, instance=None)
        instance = self._id(tag, self._attributes, met=self.instance_ids)
        for name, value in (("lemma", lemma), ("pos", pos), ("text", text)):
            if not value:
                self._refuse(f"instance '{instance}' has no {name}")
        return Token(text=text, lemma=lemma, pos=pos, instance=instance)

    def _id(self, tag: str, attributes: Mapping[str, str], *, met: set[str] | None = None) -> str:
        """The id, which must be one word, as key files separate by white space, and new among those `met`."""
        name = attributes.get("id", "")
        if len(name.split()) != 1 or name != name.strip():
            self._refuse(f"<{tag}> needs an id without spaces, got {attributes.get('id')!r}")
        if met is not None:
            if name in met:
                self._refuse(f"{tag} '{name}' occurs a second time")
            met.add(name)
        return intern(name)

    def _characters(self, data: str) -> None:
        if self._open[-1] in {"wf", "instance"}:
            self._text.append(data)
        elif not data.isspace():
            self._refuse(f"text {data.strip()[:40]!r} in <{self._open[-1]}>, outside <wf> and <instance>")

    def _entity(self, name: str, *_declaration: object) -> None:
        self._refuse(f"entity '{name}': files with entities of their own are not read")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: line {self._parser.CurrentLineNumber}: {what}")


def _require_readable(path: Path) -> None:
    """Refuse a file that is not there, or compressed under a name that hides it."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as stream:
        head = stream.read(4)
    for ending, magic in COMPRESSED.items():
        if head.startswith(magic) and not path.name.endswith(ending):
            raise DataError(f"{path}: compressed, but its name does not end in {ending}. Rename it")


def _unheeded(_bytes_read: int) -> None:
    """These files take seconds: nobody follows their progress."""
