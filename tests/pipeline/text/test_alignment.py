"""A teacher's view: the same words masked, only equal tokens answerable, no masked character visible."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.text.alignment import teacher_view
from pipeline.text.inputs import model_inputs
from pipeline.text.vocabulary import bridge, normalised_tokens, space_variants
from storage.records.sequences import Masks, Sequences

TEXT = "The unhappy cat's friend plays chess, and re-plays it."


def wordpiece(
    ordinary: list[str], *, cls: str = "[CLS]", sep: str = "[SEP]", pad: str = "[PAD]", mask: str = "[MASK]"
) -> Any:
    tokens = [pad, mask, cls, sep, "[UNK]", *ordinary]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


SHARED = ["the", "cat", "'", "s", "friend", "play", "##s", "chess", ",", "and", "re", "-", "plays", "it", "."]
REFERENCE = wordpiece([*SHARED, "un", "##happy"])
ALIKE = wordpiece([*SHARED[::-1], "##happy", "un"], cls="<s>", sep="</s>", pad="<pad>", mask="<mask>")
OTHER = wordpiece([*SHARED, "unhappy"])
SPECIAL = {"pad": 0, "mask": 1, "cls": 2, "sep": 3, "unk": 4}


def reference_sequences(text: str, tokenizer: Any = REFERENCE) -> Sequences:
    encoding = tokenizer.encode(text)
    word = np.array([-1 if number is None else number for number in encoding.word_ids], np.int16)
    offsets = np.array(encoding.offsets, np.int32)
    return Sequences(
        document_N=np.zeros(1, np.uint32),
        window_N=np.zeros(1, np.uint32),
        length_N=np.array([len(word)], np.uint16),
        input_ids_NL=np.array([encoding.ids], np.uint16),
        word_NL=word[None],
        char_start_NL=np.where(word < 0, -1, offsets[:, 0])[None].astype(np.int32),
        char_end_NL=np.where(word < 0, -1, offsets[:, 1])[None].astype(np.int32),
    )


def masks_of(sequences: Sequences, words: list[int]) -> Masks:
    columns = np.flatnonzero(np.isin(sequences.word_NL[0], words))
    return Masks(
        copy_P=np.zeros(len(columns), np.uint16),
        sequence_P=np.zeros(len(columns), np.uint32),
        column_P=columns.astype(np.uint16),
        label_P=sequences.input_ids_NL[0, columns],
    )


def bridge_of(tokenizer: Any) -> np.ndarray:
    reference = REFERENCE.get_vocab()
    roles = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<mask>": "[MASK]"}
    own = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return np.array([reference.get(roles.get(token, token), -1) for token, _ in own])


def look(tokenizer: Any, words: list[int], *, positions: int = 512) -> tuple[Any, Any, Masks, Sequences]:
    sequences = reference_sequences(TEXT)
    masks = masks_of(sequences, words)
    view, gold_P = teacher_view(
        [TEXT],
        sequences,
        masks,
        tokenizer=tokenizer,
        to_student_V=bridge_of(tokenizer),
        special=SPECIAL,
        positions=positions,
    )
    return view, gold_P, masks, sequences


def test_same_tokens_under_other_ids_are_all_answerable() -> None:
    view, gold_P, masks, sequences = look(ALIKE, [1, 5])
    assert [REFERENCE.id_to_token(int(label)) for label in masks.label_P] == ["un", "##happy", "friend"]
    assert [ALIKE.id_to_token(int(gold)) for gold in gold_P] == ["un", "##happy", "friend"]
    assert view.column_P.tolist() == masks.column_P.tolist()
    inputs = model_inputs(view, np.array([0]))
    tokens = [ALIKE.id_to_token(int(number)) for number in inputs.input_ids_BL[0]]
    assert tokens[:4] == ["<s>", "the", "<mask>", "<mask>"]
    assert tokens.count("<mask>") == 3
    assert sequences.length_N[0] == len(tokens)


def test_a_word_cut_differently_is_masked_and_named() -> None:
    view, gold_P, _, _ = look(OTHER, [1, 5])
    words = view.cut_words
    assert words is not None
    assert (words.example_W.tolist(), words.prediction_W.tolist(), words.reference_tokens_W.tolist()) == ([0], [0], [2])
    assert (words.column_W.tolist(), words.tokens_W.tolist(), words.spaced_W.tolist()) == ([2], [1], [True])
    assert view.column_P[:2].tolist() == [-1, -1]
    assert gold_P[:2].tolist() == [65535, 65535]
    inputs = model_inputs(view, np.array([0]))
    assert inputs.prediction_Q.tolist() == [2]
    tokens = [OTHER.id_to_token(int(number)) for number in inputs.input_ids_BL[0]]
    assert tokens[:4] == ["[CLS]", "the", "[MASK]", "cat"]
    assert tokens[inputs.column_Q[0]] == "[MASK]"


def byte_level() -> Any:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    merges = [("t", "h"), ("th", "e"), ("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t"), ("'", "s")]
    tokens = ["[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]", *sorted(alphabet), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def test_a_byte_level_teacher_sees_the_whole_word_masked() -> None:
    tokenizer = byte_level()
    to_student_V = np.full(tokenizer.get_vocab_size(), -1)
    to_student_V[tokenizer.token_to_id("Ġcat")] = REFERENCE.token_to_id("cat")
    sequences = reference_sequences(TEXT)
    for words, hidden in (([2], "cat"), ([5], "friend"), ([3], "'s")):
        view, gold_P = teacher_view(
            [TEXT],
            sequences,
            masks_of(sequences, words),
            tokenizer=tokenizer,
            to_student_V=to_student_V,
            special=SPECIAL,
            positions=512,
        )
        inputs = model_inputs(view, np.array([0]))
        seen = "".join(tokenizer.id_to_token(int(number)) for number in inputs.input_ids_BL[0] if number > 4)
        assert seen.replace("Ġ", "") == TEXT.lower().replace(hidden, "", 1).replace(" ", "")
        assert (gold_P != 65535).sum() == (1 if hidden == "cat" else 0)


def test_words_beyond_the_teachers_positions_are_not_answerable() -> None:
    view, _, _, _ = look(ALIKE, [1, 5, 12], positions=8)
    assert view.length_N.tolist() == [8]
    assert (view.column_P >= 0).tolist() == [True, True, False, False]
    assert view.ids_NL[0, 7] == SPECIAL["sep"]


@given(words=st.sets(st.integers(0, 13), min_size=1), which=st.sampled_from(["alike", "other"]))
@settings(max_examples=80, deadline=None)
def test_no_hidden_word_is_ever_visible(words: set[int], which: str) -> None:
    tokenizer = {"alike": ALIKE, "other": OTHER}[which]
    view, gold_P, masks, sequences = look(tokenizer, sorted(words))
    inputs = model_inputs(view, np.array([0]))
    visible = [
        offsets
        for offsets, number in zip(tokenizer.encode(TEXT).offsets, inputs.input_ids_BL[0], strict=True)
        if number > 4
    ]
    for column in masks.column_P:
        start, end = sequences.char_start_NL[0, column], sequences.char_end_NL[0, column]
        assert all(end <= left or right <= start for left, right in visible)
    answered = gold_P != 65535
    assert (bridge_of(tokenizer)[gold_P[answered]] == masks.label_P[answered]).all()


# A teacher whose tokens carry the space before a word.

MARKED = 'The cat (dog) ran. "Dog," he said;\nthe dog\'s (re-run).'
WORDS = ["the", "cat", "(", "dog", ")", "ran", ".", '"', ",", "he", "said", ";", "'", "s", "re", "-", "run"]
UNMARKED_STUDENT = wordpiece(WORDS)


def marked_teacher() -> Any:
    """Byte-level BPE in which every word of MARKED is one token, with and without a space, and runs of punctuation."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare = [f"{word}\n" for word in WORDS] * 3
    tokenizer.train_from_iterator([MARKED, f" {' '.join(WORDS)}", *bare] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def marked_look(words: list[int], *, text: str = MARKED, start: int = 0) -> tuple[Any, Any, Masks, Sequences, Any, Any]:
    teacher = marked_teacher()
    sequences = reference_sequences(text[start:], UNMARKED_STUDENT)
    shifted = {
        name: np.where(values < 0, values, values + start) if name.startswith("char") else values
        for name, values in sequences.arrays().items()
    }
    sequences = Sequences(**shifted)
    masks = masks_of(sequences, words)
    special = {role: number for number, role in enumerate(("pad", "mask", "cls", "sep", "unk"))}
    own, student = (normalised_tokens(backend, special=special) for backend in (teacher, UNMARKED_STUDENT))
    to_student_V = bridge(own, student).to_student_V
    view, gold_P = teacher_view(
        [text], sequences, masks, tokenizer=teacher, to_student_V=to_student_V, special=SPECIAL, positions=512,
        variant_V=space_variants(own, student),
    )  # fmt: skip
    return view, gold_P, masks, sequences, teacher, to_student_V


def word_texts(sequences: Sequences, text: str) -> list[str]:
    starts, ends = sequences.char_start_NL[0], sequences.char_end_NL[0]
    return [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True) if a >= 0]


def test_every_word_is_answered_whatever_stands_before_it() -> None:
    """After a bracket, a quote or a line break, at the beginning of the text, and in a run of punctuation."""
    count = len(word_texts(reference_sequences(MARKED, UNMARKED_STUDENT), MARKED))
    for word in range(count):
        view, gold_P, masks, sequences, teacher, to_student_V = marked_look([word])
        text = word_texts(sequences, MARKED)[word]
        assert gold_P[0] != 65535, (word, text)
        assert to_student_V[gold_P[0]] == masks.label_P[0]
        inputs = model_inputs(view, np.array([0]))
        assert (inputs.input_ids_BL[0] == SPECIAL["mask"]).sum() == 1, "only that word is hidden"
        begin = sequences.char_start_NL[0, masks.column_P[0]]
        bare = (begin == 0 or not MARKED[begin - 1].isspace()) and text.isalpha()
        assert bool(view.respelt_P[0] and teacher.id_to_token(int(gold_P[0])).startswith("Ġ")) == bare, text


def test_the_first_word_of_a_window_has_its_space() -> None:
    start = MARKED.index("ran")
    view, gold_P, _, _, teacher, _ = marked_look([0], start=start)
    assert teacher.id_to_token(int(gold_P[0])) == "Ġran" and not view.respelt_P[0]
    seen = [teacher.id_to_token(int(number)) for number in view.ids_NL[0]]
    assert seen[:2] == ["[CLS]", "Ġran"]


def test_a_run_of_punctuation_stays_whole_where_nothing_of_it_is_hidden() -> None:
    whole = {'."', ',"', ");", '.Ġ"'}
    words = word_texts(reference_sequences(MARKED, UNMARKED_STUDENT), MARKED)
    view, _, _, _, teacher, _ = marked_look([words.index("cat")])
    tokens = [teacher.id_to_token(int(number)) for number in view.ids_NL[view.sequence_G[0]]]
    assert any(len(token.strip("Ġ")) > 1 and not token.strip("Ġ").isalnum() for token in tokens[1:-1]), whole


def test_nothing_hidden_is_visible_to_a_teacher_of_marked_tokens() -> None:
    words = word_texts(reference_sequences(MARKED, UNMARKED_STUDENT), MARKED)
    for hidden in range(len(words)):
        view, _, _, _, teacher, _ = marked_look([hidden])
        inputs = model_inputs(view, np.array([0]))
        seen = "".join(teacher.id_to_token(int(n)) for n in inputs.input_ids_BL[0] if n > 4).replace("Ġ", "")
        shown = "".join(words[:hidden] + words[hidden + 1 :]).lower()
        assert seen == shown


def test_variants_exchange_words_with_and_without_a_space_only() -> None:
    teacher = ["[PAD]", "▁", "▁dog", "dog", "▁,", "▁▁,", "ing", "▁cat"]
    student = ["[PAD]", "▁dog", "ing", "▁,"]
    variant_V = space_variants(teacher, student)
    assert variant_V is not None and variant_V.tolist() == [0, 1, 3, 2, 4, 5, 6, 7]
    assert bridge(teacher, student).to_student_V.tolist() == [0, -1, 1, -1, 3, 3, 2, -1]
    assert space_variants(teacher, teacher) is None, "both write the space"
    assert space_variants(student, student) is None, "neither does"
    assert space_variants(student, teacher) is None
