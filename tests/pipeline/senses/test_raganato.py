"""Small files written here, read back; every rule for what is wrong by its message. Real corpora are not read."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.senses.raganato import (
    Counts,
    Sentence,
    Token,
    check,
    key_lines,
    normalise,
    read_gold,
    read_sentences,
    set_name,
)
from pipeline.text.documents import decoding as texts
from storage.errors import DataError

CORPUS = """<?xml version="1.0" encoding="UTF-8" ?>
<corpus lang="en" source="tiny">
<text id="d000">
<sentence id="d000.s000">
<wf lemma="the" pos="DET">The</wf>
<instance id="d000.s000.t000" lemma="bank" pos="NOUN">banks</instance>
<wf lemma="&amp;" pos=".">&amp;</wf>
<instance id="d000.s000.t001" lemma="take_place" pos="VERB">took
  place</instance>
</sentence>
<sentence id="d000.s001">
</sentence>
</text>
<text id="d001">
<sentence id="d001.s000">
<wf>café</wf>
<instance id="d001.s000.t000" lemma="well" pos="ADV">well</instance>
</sentence>
</text>
</corpus>
"""
GOLD = (
    "d000.s000.t000 bank%1:14:00:: bank%1:17:01::\nd000.s000.t001 take_place%2:30:00::\nd001.s000.t000 well%4:02:00::\n"
)


def written(folder: Path, content: str | bytes, name: str = "tiny.data.xml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def corpus(inner: str) -> str:
    """One sentence that holds `inner`, which is on line 1."""
    return f'<corpus><text id="d000"><sentence id="d000.s000">{inner}</sentence></text></corpus>'


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_sentences(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_is_read_word_by_word(tmp_path: Path) -> None:
    first, empty, last = read_sentences(written(tmp_path, CORPUS))
    assert first == Sentence(
        sentence_id="d000.s000",
        document_id="d000",
        source="tiny",
        tokens=(
            Token(text="The", lemma="the", pos="DET", instance=None),
            Token(text="banks", lemma="bank", pos="NOUN", instance="d000.s000.t000"),
            Token(text="&", lemma="&", pos=".", instance=None),
            Token(text="took place", lemma="take_place", pos="VERB", instance="d000.s000.t001"),
        ),
    )
    assert (empty.sentence_id, empty.tokens) == ("d000.s001", ())
    assert last.document_id == "d001"
    assert last.tokens[0] == Token(text="café", lemma="", pos="", instance=None)


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_files_and_any_size_of_chunks_read_the_same(
    ending: str, compress: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(read_sentences(written(tmp_path, CORPUS)))
    assert callable(compress)
    path = written(tmp_path, compress(CORPUS.encode()), f"tiny.data.xml{ending}")
    assert list(read_sentences(path)) == expected
    gold = written(tmp_path, compress(GOLD.encode()), f"tiny.gold.key.txt{ending}")
    assert read_gold(gold) == read_gold(written(tmp_path, GOLD, "tiny.gold.key.txt"))
    monkeypatch.setattr(texts, "CHUNK_BYTES", 5)
    assert list(read_sentences(path)) == expected
    assert len(read_gold(gold)) == 3


def test_sentences_come_before_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHUNK_BYTES", 64)
    sentences = read_sentences(written(tmp_path, CORPUS[:-40]))
    assert next(sentences).sentence_id == "d000.s000"
    with pytest.raises(DataError, match=r"line 1[0-9]: not XML, or cut short"):
        list(sentences)


def test_the_set_is_in_the_ids_or_in_the_name_of_the_file(tmp_path: Path) -> None:
    all_sets = CORPUS.replace('"d000', '"senseval2.d000').replace('"d001', '"semeval2013.d001')
    path = written(tmp_path, all_sets, "ALL.data.xml")
    assert [sentence.source for sentence in read_sentences(path)] == ["senseval2", "senseval2", "semeval2013"]
    assert set_name("my.data.d010.s000.t001", path=path) == "my.data"
    for name in ("tiny.data.xml", "tiny.data.xml.gz", "tiny.xml.zst", "tiny"):
        assert set_name("d000.s000.t000", path=Path("data.d0") / name) == "tiny"
    assert set_name("x", path=Path(".xml")) == ".xml"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty; expected corpus > text"),
        ("\n \n", "not XML, or cut short"),
        ("d000.s000.t000 bank%1:14:00::\n", "line 1: not XML"),
        ("<corpus></corpus>", "no <sentence> in it"),
        ("<html><body/></html>", "line 1: <html> as the outermost element; expected corpus > text"),
        ("<corpus>\n<document/></corpus>", "line 2: <document> inside <corpus>"),
        ('<corpus>\n<sentence id="s"/></corpus>', "line 2: <sentence> inside <corpus>"),
        (corpus("<wf>a<wf>b</wf></wf>"), "<wf> inside <wf>"),
        (corpus("\n<wf>a</wf> stray words"), "line 2: text 'stray words' in <sentence>, outside <wf>"),
        ("<corpus><text/></corpus>", "<text> needs an id without spaces, got None"),
        ('<corpus><text id="d"><sentence id=""/></text></corpus>', "<sentence> needs an id without spaces, got ''"),
        (corpus('<instance lemma="a" pos="NOUN">a</instance>'), "<instance> needs an id without spaces, got None"),
        (corpus('<instance id="a b" lemma="a" pos="NOUN">a</instance>'), "without spaces, got 'a b'"),
        (corpus('<instance id="i" pos="NOUN">a</instance>'), "instance 'i' has no lemma"),
        (corpus('<instance id="i" lemma="a">a</instance>'), "instance 'i' has no pos"),
        (corpus('<instance id="i" lemma="a" pos="NOUN"> </instance>'), "instance 'i' has no text"),
        (corpus('<instance id="i" lemma="a" pos="X">a</instance>\n' * 2), "line 2: instance 'i' occurs a second time"),
        (CORPUS.replace("d001.s000", "d000.s000"), "line 15: sentence 'd000.s000' occurs a second time"),
        (CORPUS.replace("</sentence>", "", 1), "<sentence> inside <sentence>"),
        (CORPUS.replace("&amp;</wf>", "&</wf>"), "line 7: not XML"),
        (CORPUS.encode("latin-1"), "line 16: not XML, or cut short, or not in its encoding"),
        (CORPUS.replace("UTF-8", "UTF-99"), "line 1: .*encoding"),
        (CORPUS.encode()[:300], "line 8: not XML, or cut short.*unclosed token"),
        (gzip.compress(CORPUS.encode(), mtime=0), "compressed, but its name does not end in .gz"),
        (zstandard.compress(CORPUS.encode()), "compressed, but its name does not end in .zst"),
    ],
)
def test_bad_files_are_refused_with_their_line(content: str | bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        list(read_sentences(written(tmp_path, content)))
    refusal(tmp_path / "tiny.data.xml")


def test_compressed_files_that_are_cut_or_none_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(CORPUS.encode())
    assert "ends too early" in refusal(written(tmp_path, whole[:-30], "cut.data.xml.gz"))
    assert "cannot be read" in refusal(written(tmp_path, CORPUS, "plain.data.xml.gz"))
    with pytest.raises(DataError, match="ends too early"):
        read_gold(written(tmp_path, gzip.compress(GOLD.encode())[:-9], "cut.gold.key.txt.gz"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.data.xml")
    assert "no such file" in refusal(tmp_path)


def test_entities_are_refused_and_other_document_types_are_not(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE corpus [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + corpus("<wf>&b;</wf>")
    assert "entity 'a': files with entities of their own" in refusal(written(tmp_path, bomb))
    outside = '<!DOCTYPE corpus SYSTEM "coarse.dtd">'
    assert "entity 'a'" in refusal(written(tmp_path, outside + corpus("<wf>&a;</wf>")))
    (sentence,) = read_sentences(written(tmp_path, outside + corpus("<wf>&lt;</wf>")))
    assert sentence.tokens[0].text == "<"


def test_a_declared_encoding_is_honoured(tmp_path: Path) -> None:
    path = written(tmp_path, CORPUS.replace("UTF-8", "ISO-8859-1").encode("latin-1"))
    assert list(read_sentences(path))[2].tokens[0].text == "café"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Z")), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(sentences=st.lists(st.lists(st.tuples(WORDS, WORDS, st.booleans()), max_size=4), min_size=1, max_size=4))
def test_any_words_come_back(sentences: list[list[tuple[str, str, bool]]], tmp_path: Path) -> None:
    lines, expected = ['<corpus><text id="d">'], []
    for number, words in enumerate(sentences):
        lines.append(f'<sentence id="s{number}">')
        tokens = []
        for place, (text, lemma, sense) in enumerate(words):
            tag = f'instance id="s{number}.t{place}"' if sense else "wf"
            lines.append(f'<{tag} lemma={quoteattr(lemma)} pos="ADJ">{escape(text)}</{tag.split(maxsplit=1)[0]}>')
            tokens.append(Token(text=text, lemma=lemma, pos="ADJ", instance=f"s{number}.t{place}" if sense else None))
        lines.append("</sentence>")
        expected.append(tuple(tokens))
    path = written(tmp_path, "\n".join([*lines, "</text></corpus>"]))
    assert [sentence.tokens for sentence in read_sentences(path)] == expected


def test_gold_is_read_with_several_keys_and_without_markers(tmp_path: Path) -> None:
    lines = "\ufeffa x%1:00:00::\r\n\nb  y%3:00:00::\ty%5:00:00:up(p):01 y%5:00:00:up:01\nc z(ip)%5:00:00:z:00"
    assert read_gold(written(tmp_path, lines, "gold")) == {
        "a": ("x%1:00:00::",),
        "b": ("y%3:00:00::", "y%5:00:00:up:01"),
        "c": ("z%5:00:00:z:00",),
    }
    assert normalise("lemma(a)%3:00:00::") == "lemma%3:00:00::"
    assert normalise("b(x)%1:00:00::") == "b(x)%1:00:00::"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty; expected lines of 'id key"),
        ("a x\n\nb\n", "line 3: instance 'b' has no sense key"),
        ("a x\na y\n", "line 2: instance 'a' occurs a second time"),
        ("a x\nb é\n".encode("latin-1"), "line 2: not UTF-8"),
        (CORPUS, "line 1: looks like XML; expected the key file"),
        (gzip.compress(b"a x", mtime=0), "compressed, but its name"),
    ],
)
def test_bad_gold_is_refused_with_its_line(content: str | bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        read_gold(written(tmp_path, content, "tiny.gold.key.txt"))


def test_key_lines_keep_lines_without_keys(tmp_path: Path) -> None:
    path = written(tmp_path, "a\nb x x\n", "answers")
    assert list(key_lines(path)) == [(f"{path}: line 1", "a", ()), (f"{path}: line 2", "b", ("x",))]


def sentence_of(*tokens: Token, number: int = 0) -> Sentence:
    return Sentence(sentence_id=f"s{number}", document_id=f"d{number % 2}", source="tiny", tokens=tokens)


def instances(names: list[str], pos: str = "NOUN") -> Iterator[Sentence]:
    for number, name in enumerate(names):
        yield sentence_of(Token(text="a", lemma="a", pos=pos, instance=name), number=number)


def test_everything_that_is_odd_is_counted() -> None:
    sentences = [
        *instances(["a", "b", "c"]),
        *instances(["d"], pos="X"),
        sentence_of(Token(text="", lemma="", pos="", instance=None)),
        sentence_of(),
    ]
    gold = {"a": ("k", "new"), "b": ("k",), "d": ("k",), "e": ("k",)}
    assert check(sentences, gold, known=lambda key: key == "k") == Counts(
        documents=2,
        sentences=6,
        tokens=5,
        instances=4,
        empty_sentences=1,
        empty_tokens=1,
        unknown_pos=1,
        without_gold=1,
        without_instance=1,
        several_keys=1,
        unknown_keys=1,
    )
    assert check(sentences, gold).unknown_keys == 0


def test_gold_of_other_data_is_refused_and_half_in_common_is_not() -> None:
    gold = dict.fromkeys("abcd", ("k",))
    assert check(instances(["a", "b", "x", "y"]), gold).without_gold == 2
    with pytest.raises(DataError, match=r"gold: gold of other data than data: 1 ids in common of 2 instances \(first"):
        check(instances(["x", "a"]), gold)
    with pytest.raises(DataError, match=r"1 ids in common of 4 instances \(first 'a'\) and 1 gold lines \(first 'a'"):
        check(instances(["a", "x", "y", "z"]), {"a": ("k",)})
    with pytest.raises(DataError, match=r"^g.txt: gold of other data than d.xml: 0 ids in common"):
        check(instances(["senseval2.a"]), gold, files=(Path("d.xml"), Path("g.txt")))


def test_data_without_instances_is_refused() -> None:
    with pytest.raises(DataError, match="data: no <instance> in it"):
        check([sentence_of()], {"a": ("k",)})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("bn:00008364n", "an id of BabelNet"),
        ("hot%3:00:00:tasty:00", "of another inventory or version"),
        ("Q144", "of another inventory or version"),
    ],
)
def test_gold_in_keys_of_another_inventory_is_refused_and_a_slip_is_counted(key: str, kind: str) -> None:
    """More than one word in twenty; another key of the word makes up for a strange one."""
    names = [f"t{number:02}" for number in range(20)]
    one = dict.fromkeys(names, ("k", key)) | {"t03": (key,)}
    assert check(instances(names), one, known=lambda found: found == "k").unknown_keys == 20
    first = re.escape(f"(first 't03 {key}', {kind}); expected at most 5%")
    with pytest.raises(DataError, match=rf"^g.txt: 2 of 20 words have no sense key of the inventory {first}"):
        check(
            instances(names),
            one | {"t07": (key,)},
            files=(Path("d.xml"), Path("g.txt")),
            known=lambda found: found == "k",
        )


def test_letters_for_parts_of_speech_are_refused() -> None:
    expected = r"data: none of 2 instances has a part of speech of NOUN, VERB, ADJ, ADV \(the first has pos='n'\)"
    with pytest.raises(DataError, match=expected):
        check(instances(["a", "b"], pos="n"), dict.fromkeys("ab", ("k",)))
