"""Cut a text into sentences and into units of alignment: neighbouring sentences with enough words, by their offsets.

Offsets are characters (Unicode code points) of the text as it stands in its file. Every unit is a part of the text, no
two overlap, and only white space lies between them.
"""

from __future__ import annotations

import re

from pipeline.text.sentences import Span, sentence_spans

RUN = re.compile(r"\S{1,60}")
"""A word, or a piece of it: text without spaces between words is cut too."""


def unit_spans(text: str, *, least: int, most: int) -> list[Span]:
    """Units of at least `least` and at most `most` words, of whole sentences where they can be.

    Fewer words than `least` has the last unit where it cannot join the one before, or one before a long sentence.
    """
    units: list[list[Span]] = []
    held: list[Span] = []
    for start, end in sentence_spans(text):
        words = [(run.start(), run.end()) for run in RUN.finditer(text, start, end)]
        if held and (len(held) >= least or len(held) + len(words) > most):
            units.append(held)
            held = []
        held += words
        while len(held) > most:
            units.append(held[:most])
            held = held[most:]
    if held and units and len(held) < least and len(units[-1]) + len(held) <= most:
        units[-1] = units[-1] + held
    elif held:
        units.append(held)
    return [(words[0][0], words[-1][1]) for words in units]
