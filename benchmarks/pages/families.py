"""Tables about families of models and vocabularies."""

from __future__ import annotations

from benchmarks.pages.markdown import Reports, number, signed, table

PLACES = ("single token", "several tokens", "capital", "punctuation", "first word")


def coverage(reports: Reports) -> str:
    """What teachers of each vocabulary answer of a WordPiece student's masked positions."""
    rows = []
    for row in reports.read("families.json")["coverage"]:
        places = [row["by_place"].get(place, {}) for place in PLACES]
        before = [number(100 * place["answered_before"], 0) if place else "" for place in places]
        shares = [100 * row[name] for name in ("answered", "answered_before", "one_token")]
        rows.append([row["kind"], row["text"], *(number(share, 1) for share in shares), *before])
    header = ["vocabulary", "text", "answered, %", "cut alike, %", "one teacher's token, %", *PLACES]
    return table(header, rows)


def likelihood(reports: Reports) -> str:
    """NLL of the true tokens under a real teacher, at words that are cut alike and at others."""
    rows = [
        [
            row["kind"],
            number(row["nll_same_blanks"]),
            number(row["nll_new"]),
            number(row["nll_new_without"]),
            " + ".join(str(count) for count in row["nll_positions"]),
        ]
        for row in reports.read("families.json")["coverage"]
        if row.get("nll_same_blanks") is not None
    ]
    return table(["students' vocabulary", "cut alike", "others", "others, by frequency", "positions"], rows)


def gain(reports: Reports) -> str:
    """Targets and students with and without a teacher of another vocabulary, at words that it cuts alike or not."""
    rows = []
    for row in reports.read("families.json")["gain"]:
        difference = [signed(row[name]) for name in ("difference", "difference_low", "difference_high")]
        where = "cut differently" if row["where"] == "new" else "cut alike"
        shown = f"{difference[0]} [{difference[1]}, {difference[2]}]"
        losses = (number(row["without"]), number(row["with"]))
        pool = " + ".join(f"`{name}`" for name in row["pool"])
        rows.append([row["of"], pool, f"`{row['weighting']}`", where, str(row["positions"]), *losses, shown])
    header = ["NLL of", "other teachers", "`weighting`", "words", "positions", "without", "with", "with minus without"]
    return table(header, rows)


def outcomes(reports: Reports) -> str:
    """How many families went through each role."""
    found = reports.read("families.json")["families"]
    rows = []
    for role in ("teacher", "start", "lexical"):
        mine = [row for row in found if row["role"] == role]
        refused = ", ".join(row["family"] for row in mine if row["outcome"] == "refused")
        counts = [str(sum(row["outcome"] == outcome for row in mine)) for outcome in ("ok", "refused", "crash")]
        rows.append([role, *counts, refused])
    return table(["role", "ok", "refused", "crash", "which are refused"], rows)


def versions(reports: Reports) -> str:
    """In how many families a saved student is the same in other versions of transformers."""
    found = [row for row in reports.read("families.json")["versions"] if "version" in row]
    rows = []
    for version in dict.fromkeys(row["version"] for row in found):
        mine = [row for row in found if row["version"] == version]
        cells = []
        for outcome in ("same", "differs", "not loaded"):
            names = [row["family"] for row in mine if row["outcome"] == outcome]
            cells.append(str(len(names)) if outcome == "same" or not names else f"{len(names)}: {', '.join(names)}")
        rows.append([version, *cells])
    return table(["transformers", "same", "differs", "not loaded"], rows)


TABLES = {"coverage": coverage, "likelihood": likelihood, "gain": gain, "families": outcomes, "versions": versions}
