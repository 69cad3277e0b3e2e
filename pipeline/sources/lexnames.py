"""WordNet 3.0's table of lexicographer files, `lexnames`, which NLTK needs and Debian's packages lack.

From WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved. Permission to use, copy, modify and
distribute the database for any purpose and without fee or royalty is granted by the licence at the head of its data
files, provided that the copyright notice and disclaimer appear on all copies.
"""

from __future__ import annotations

_TEXT = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person
noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state
noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative
verb.weather adj.ppl
"""
NAMES = tuple(_TEXT.split())
"""In the order of their numbers, which sense keys hold."""

PARTS_OF_SPEECH = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def table() -> str:
    """The text of the file: number, name, part of speech, tab-separated."""
    lines = (f"{number:02d}\t{name}\t{PARTS_OF_SPEECH[name.split('.')[0]]}\n" for number, name in enumerate(NAMES))
    return "".join(lines)
