"""Which texts are nearly the same: MinHash signatures of their word 5-grams, and candidates by bands of these.

Two texts are near-duplicates when the Jaccard similarity of their sets of 5-grams is estimated at NEAR or more. The
estimate is the share of equal numbers in two signatures (Broder 1997), of which only 8 bits each are kept (b-bit
minwise hashing, Li and König 2010: two numbers that differ agree in one of 256 cases). Texts are compared when a band
of their signatures is equal, which finds 95 % of pairs of similarity 0.8 and 99.9 % of 0.88 (Indyk and Motwani 1998).

Words are runs of letters and digits in lower case, in scripts without spaces the single characters. Signatures are made
by `rensa`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

NGRAM = 5
PERMUTATIONS = 128
BANDS = 16
NEAR = 0.8
SEED = 0

IDENTITY = {"ngram": NGRAM, "permutations": PERMUTATIONS, "bands": BANDS, "near": NEAR, "method": "rensa R-MinHash 2"}
"""What decides which texts are near-duplicates."""

TEXT_CHARACTERS = 2**20
"""Of a longer text the beginning is compared."""
BATCH_CHARACTERS = 2**20
"""Texts of about so many characters are worked on at once: some 60 MB."""

PAIRS_A_TEXT = 64
"""Texts of one band that a text is compared with: where more are alike, all are."""


def signatures(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.bool_]]:
    """Of each of N texts the signature [N, PERMUTATIONS], the keys of its bands [N, BANDS], and whether it has words.

    A text without words is like no other.
    """
    found = [_signatures(texts[start:stop]) for start, stop in _batches(texts)]
    if not found:
        return np.zeros((0, PERMUTATIONS), np.uint8), np.zeros((0, BANDS), np.uint64), np.zeros(0, bool)
    signature, band, worded = (np.concatenate(column) for column in zip(*found, strict=True))
    return signature, band, worded


def similarity(one_NK: NDArray[np.uint8], other_NK: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of N pairs, given their signatures."""
    return np.asarray((one_NK == other_NK).mean(axis=1))


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for number, text in enumerate(texts):
        size += min(len(text), TEXT_CHARACTERS)
        if size >= BATCH_CHARACTERS:
            yield start, number + 1
            start, size = number + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _signatures(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.bool_]]:
    from rensa import RMinHash

    gram, start_N1 = ngrams(texts)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        gram, start_N1.astype(np.uint64), num_perm=PERMUTATIONS, seed=SEED
    )
    number_NK = mixed(np.array(digests.to_rows()).astype(np.uint64).reshape(len(texts), PERMUTATIONS))
    band_NB: NDArray[np.uint64] = np.zeros((len(texts), BANDS), np.uint64)
    for place in range(PERMUTATIONS // BANDS):
        band_NB = mixed(np.bitwise_xor(band_NB, number_NK[:, place :: PERMUTATIONS // BANDS]))
    band_NB = mixed(np.add(band_NB, np.arange(BANDS).astype(np.uint64)))
    return (number_NK >> np.uint64(56)).astype(np.uint8), band_NB, np.diff(start_N1) > 0


def ngrams(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the word n-grams of N texts, flat, and where each text's begin [N + 1].

    A text of fewer than NGRAM words has one, of all its words. The hash of a word is a polynomial of its bytes, that of
    an n-gram one of its words, modulo 2^64.
    """
    raw = [text[:TEXT_CHARACTERS].lower().encode() for text in texts]
    byte_C = np.frombuffer(b"".join(part + b" " for part in raw), np.uint8)
    end_N = np.cumsum([len(part) + 1 for part in raw], dtype=np.int64)
    inside_C, begins_C = LETTER[byte_C], np.zeros(len(byte_C), bool)
    begins_C[1:] = inside_C[1:] & ~inside_C[:-1]
    begins_C[:1] = inside_C[:1]
    begins_C |= UNSPACED[byte_C]
    begin_W = np.flatnonzero(begins_C)
    if not len(begin_W):
        return np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.int64)
    word_C = np.maximum(np.cumsum(begins_C) - 1, 0)
    place_C = np.arange(len(byte_C)) - begin_W[word_C]
    value_C = np.where(inside_C, (byte_C.astype(np.uint64) + np.uint64(1)) * BYTE_POWERS[place_C & 63], np.uint64(0))
    hash_W = mixed(np.add.reduceat(value_C, begin_W))
    text_W = np.searchsorted(end_N, begin_W, side="right")
    gram_W = np.zeros(len(hash_W), np.uint64)
    for place in range(NGRAM):
        same = text_W[place:] == text_W[: len(text_W) - place]
        gram_W[: len(same)] += np.where(same, hash_W[place:] * WORD_POWERS[place], np.uint64(0))
    whole_W = np.diff(text_W, prepend=-1) > 0  # of a text with few words its first n-gram is all of it
    whole_W[: max(0, len(text_W) - NGRAM + 1)] |= text_W[NGRAM - 1 :] == text_W[: max(0, len(text_W) - NGRAM + 1)]
    return mixed(gram_W[whole_W]), np.searchsorted(text_W[whole_W], np.arange(len(texts) + 1)).astype(np.int64)


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on all of a number's."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(numbers ^ (numbers >> np.uint64(31)))


def _odd_numbers(first: int, count: int) -> NDArray[np.uint64]:
    return mixed(np.arange(first, first + count, dtype=np.uint64)) | np.uint64(1)


BYTE_POWERS, WORD_POWERS = _odd_numbers(1, 64), _odd_numbers(1000, NGRAM)
LETTER = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
UNSPACED = np.array([0xE3 <= byte <= 0xED for byte in range(256)])
"""First bytes, in UTF-8, of characters of scripts without spaces: kana, Han and Hangul."""
