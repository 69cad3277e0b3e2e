"""Instances: words in context with their candidate senses, for lexical training and word sense disambiguation.

Two Arrow tables, sealed like every store. `sentences`: text in the order of its document, so that neighbours are
context. `instances`: a word of a sentence, its candidates (senses of its lemma and part of speech, most usual first)
and the right ones. Three kinds of source: the inventory's own examples, each of which shows a lemma of its meaning,
annotated text in the layout of Raganato et al. 2017, and documents whose words nobody annotated. What cannot be used is
counted, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.seeds import unit_hash
from pipeline.senses.documents import from_documents, require_tagger, texts_of
from pipeline.senses.lexicon import Lexicon, normal_lemma
from pipeline.senses.marked import WORD, Marked, Span
from pipeline.senses.params import SensesParams
from pipeline.senses.raganato import Sentence, read_gold, read_sentences, require_known
from storage.documents import DocumentStore
from storage.errors import DataError
from storage.format.manifest import digest, file_sha256
from storage.tables import TableStore, write_tables
from storage.work import Workspace

INSTANCES = "instances"
EXAMPLES = "examples of the inventory"
"""Source of sentences that a gloss may show again."""
REVISION = 1
SENTENCES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("sentence_id", "document_id", "source", "split", "text")]
)
INSTANCES_SCHEMA = pa.schema(
    [
        ("instance_id", pa.string()),
        ("sentence", pa.uint32()),
        ("start", pa.uint32()),
        ("end", pa.uint32()),
        ("lemma", pa.string()),
        ("pos", pa.string()),
        ("candidates", pa.list_(pa.uint32())),
        ("gold", pa.list_(pa.uint32())),
    ]
)
SCHEMAS = {"sentences": SENTENCES_SCHEMA, "instances": INSTANCES_SCHEMA}


def build_instances(
    name: str, params: SensesParams, lexicon: Lexicon, *, out: Path, workspace: Workspace = Workspace()
) -> dict[str, Any]:
    """Write one source as a store at `out`; returns counts of what was found, and of what was left out, by reason.

    Raises DataError for files that are not in the layout, for gold in keys that are not the inventory's, and when
    nothing is left to learn from; SourceError for text where the tagger's data are not installed.
    """
    counts: Counter[str] = Counter()
    files: list[Path] = []
    parents, tagger = {"lexicon": lexicon.identity}, {}

    def chosen(document: str) -> bool:
        return unit_hash("senses", name, whole(document)) < params.share

    if params.kind == "examples":
        marked = from_examples(lexicon, chosen=chosen, counts=counts)
    elif params.kind == "text":
        documents, opened = DocumentStore(Path(params.path)), require_tagger()
        parents["documents"], tagger["tagger"] = documents.identity, opened.identity
        texts = (text for text in texts_of(documents) if chosen(text.name))
        marked = from_documents(texts, lexicon, opened, name=name, most_words=params.most_words)
    else:
        files = list(annotated_files(Path(params.path)))
        gold = read_gold(files[1])
        require_known(gold, lexicon.row_of.__contains__, where=str(files[1]))
        marked = (sentence for sentence in from_annotated(files[0], gold) if chosen(sentence.document_id))
    tables = tables_of(marked, lexicon, heldout=params.heldout, prefix=name, counts=counts)
    if not len(tables["instances"]):
        raise DataError(f"{params.path}: no word with senses in it. Raise senses.{name}.share or give other text")
    facts: dict[str, Any] = {"counts": dict(sorted(counts.items())), "kind": params.kind}
    if params.licence:
        facts["licence"] = params.licence
    write_tables(
        out,
        tables,
        kind=INSTANCES,
        revision=REVISION,
        schemas=SCHEMAS,
        inputs={"senses": params.model_dump(exclude={"path"}), "files": [file_sha256(file) for file in files]} | tagger,
        parents=parents,
        facts=facts,
        workspace=workspace,
    )
    return facts


def annotated_files(path: Path) -> tuple[Path, Path]:
    """The data and gold files that `path` names; raises DataError unless there is one of each."""
    folder, data = (path, sorted(path.glob("*.data.xml*"))) if path.is_dir() else (path.parent, [path])
    name = data[0].name.partition(".data.xml")[0] if len(data) == 1 else "*"
    gold = sorted(folder.glob(f"{name}.gold.key.txt*"))
    if len(data) != 1 or len(gold) != 1 or not data[0].is_file():
        raise DataError(
            f"{path}: expected one NAME.data.xml and one NAME.gold.key.txt (also .gz, .zst), got "
            f"{', '.join(file.name for file in (*data, *gold) if file.is_file()) or 'neither'}"
        )
    return data[0], gold[0]


def whole(document: str) -> str:
    """The document that a part belongs to: parts are called NAME#1, NAME#2, and examples of a meaning likewise."""
    return document.partition("#")[0]


def from_annotated(data: Path, gold: Mapping[str, tuple[str, ...]]) -> Iterator[Marked]:
    """Sentences of the Raganato layout: tokens joined by one space; every instance with its keys of `gold`."""
    for sentence in read_sentences(data):
        yield marked_sentence(sentence, gold)


def marked_sentence(sentence: Sentence, gold: Mapping[str, tuple[str, ...]]) -> Marked:
    """One sentence with its instances."""
    starts = [0]
    for token in sentence.tokens:
        starts.append(starts[-1] + len(token.text) + 1)
    return Marked(
        sentence_id=sentence.sentence_id,
        document_id=sentence.document_id,
        source=sentence.source,
        text=" ".join(token.text for token in sentence.tokens),
        spans=tuple(
            Span(
                instance_id=token.instance,
                start=start,
                end=start + len(token.text),
                lemma=normal_lemma(token.lemma),
                pos=token.pos,
                gold=gold.get(token.instance, ()),
            )
            for token, start in zip(sentence.tokens, starts, strict=False)
            if token.instance is not None
        ),
    )


def from_examples(lexicon: Lexicon, *, chosen: Callable[[str], bool], counts: Counter[str]) -> Iterator[Marked]:
    """Every example of the chosen meanings, with the first word of it that is a form of one of the meaning's lemmas.

    Each word of a compound may be inflected. Counted: examples in which no lemma was found.
    """
    words = zip(lexicon.meaning_S.tolist(), lexicon.senses["lemma"].to_pylist(), strict=True)
    sense_of = {word: row for row, word in enumerate(words)}
    columns = ("name", "pos", "lemmas", "examples")
    for meaning, (name, pos, lemmas, examples) in enumerate(
        zip(*(lexicon.meanings[column].to_pylist() for column in columns), strict=True)
    ):
        if not chosen(name):
            continue
        known = [lemma for lemma in lemmas if (meaning, normal_lemma(lemma)) in sense_of]
        for number, example in enumerate(examples):
            text = example.strip('" ')
            places = ((lemma, find_lemma(text, lemma, pos=pos, lexicon=lexicon)) for lemma in known)
            lemma, place = next(((lemma, place) for lemma, place in places if place is not None), ("", None))
            if place is None:
                counts["examples without their lemma"] += 1
                continue
            start, end = place
            identifier = f"{name}#{number}"
            span = Span(
                instance_id=identifier,
                start=start,
                end=end,
                lemma=normal_lemma(lemma),
                pos=pos,
                gold=(lexicon.keys[sense_of[meaning, normal_lemma(lemma)]],),
            )
            yield Marked(sentence_id=identifier, document_id=identifier, source=EXAMPLES, text=text, spans=(span,))


def find_lemma(text: str, lemma: str, *, pos: str, lexicon: Lexicon) -> tuple[int, int] | None:
    """Where a form of `lemma` first stands in `text`, [start, end) in characters; None when it does not."""
    wanted = lemma.lower().replace("_", " ").split()
    if not wanted:
        return None
    words = [(match.group().lower(), match.start(), match.end()) for match in WORD.finditer(text)]
    for first in range(len(words) - len(wanted) + 1):
        run = words[first : first + len(wanted)]
        if all(lexicon.is_form(word, base, pos=pos) for (word, _, _), base in zip(run, wanted, strict=True)):
            return run[0][1], run[-1][2]
    return None


def tables_of(
    marked: Iterable[Marked], lexicon: Lexicon, *, heldout: float, prefix: str, counts: Counter[str]
) -> dict[str, pa.Table]:
    """Sentences and instances as tables. Left out and counted: words without senses, and gold that is no candidate."""
    sentences: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for sentence in marked:
        document = f"{prefix}/{sentence.document_id}" if prefix else sentence.document_id
        sentences.append(
            {
                "sentence_id": sentence.sentence_id,
                "document_id": document,
                "source": sentence.source,
                "split": "heldout" if unit_hash("heldout senses", whole(document)) < heldout else "train",
                "text": sentence.text,
            }
        )
        for span in sentence.spans:
            candidates = lexicon.candidates(span.lemma, span.pos)
            gold = [row for key in span.gold if (row := lexicon.row_of.get(key)) is not None and row in candidates]
            counts["instances"] += 1
            counts["unknown sense keys"] += sum(key not in lexicon.row_of for key in span.gold)
            if not candidates:
                counts["words without senses"] += 1
            elif span.gold and not gold:
                counts["gold is no candidate"] += 1
            else:
                counts["monosemous"] += len(candidates) == 1
                instances.append(
                    {
                        "instance_id": span.instance_id,
                        "sentence": len(sentences) - 1,
                        "start": span.start,
                        "end": span.end,
                        "lemma": span.lemma,
                        "pos": span.pos,
                        "candidates": list(candidates),
                        "gold": gold,
                    }
                )
    counts["sentences"] = len(sentences)
    return {
        "sentences": pa.Table.from_pylist(sentences, schema=SENTENCES_SCHEMA),
        "instances": pa.Table.from_pylist(instances, schema=INSTANCES_SCHEMA),
    }


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Opened instances of some split. I instances, C candidates in all."""

    sentences: pa.Table
    """All sentences of the store, in document order."""
    rows: pa.Table
    identity: str

    @staticmethod
    def open(path: Path, *, lexicon: Lexicon) -> Instances:
        """Read the store at `path`; raises StaleParent when it was made from another inventory."""
        made_by = f"senses@{path.name}"
        store = TableStore(path, kind=INSTANCES, revision=REVISION, schemas=SCHEMAS, made_by=made_by)
        store.require_parent("lexicon", lexicon.identity)
        return Instances(sentences=store.read("sentences"), rows=store.read("instances"), identity=store.identity)

    @staticmethod
    def of(marked: Iterable[Marked], lexicon: Lexicon) -> tuple[Instances, Counter[str]]:
        """Instances that lie in no store, with the counts of what was left out: test sets."""
        counts: Counter[str] = Counter()
        tables = tables_of(marked, lexicon, heldout=0.0, prefix="", counts=counts)
        return Instances(sentences=tables["sentences"], rows=tables["instances"], identity="given"), counts

    @staticmethod
    def joined(parts: Sequence[Instances]) -> Instances:
        """Several stores as one, in the order given."""
        offsets = np.cumsum([0, *(len(part.sentences) for part in parts)]).astype(np.uint32)
        column = INSTANCES_SCHEMA.get_field_index("sentence")
        rows = [
            part.rows.set_column(
                column,
                INSTANCES_SCHEMA.field("sentence"),
                pa.array(part.rows["sentence"].to_numpy() + offset, pa.uint32()),
            )
            for part, offset in zip(parts, offsets, strict=False)
        ]
        return Instances(
            sentences=pa.concat_tables([part.sentences for part in parts]),
            rows=pa.concat_tables(rows),
            identity=digest([part.identity for part in parts]),
        )
