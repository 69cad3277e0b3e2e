"""Small copies of GLUE's published files, with their columns and irregularities; for tests only."""

from __future__ import annotations

from pathlib import Path

HEADERS = {
    "CoLA": "",
    "SST-2": "sentence\tlabel",
    "MRPC": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "MNLI": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "QNLI": "index\tquestion\tsentence\tlabel",
    "RTE": "index\tsentence1\tsentence2\tlabel",
    "WNLI": "index\tsentence1\tsentence2\tlabel",
}
LABELS = {
    **dict.fromkeys(HEADERS, ("0", "1")),
    "STS-B": ("0.000", "5.000"),
    "MNLI": ("entailment", "neutral", "contradiction"),
    "QNLI": ("entailment", "not_entailment"),
    "RTE": ("entailment", "not_entailment"),
}
FILES = dict.fromkeys(HEADERS, ("train", "dev")) | {"MNLI": ("train", "dev_matched", "dev_mismatched")}


def line(task: str, label: str, first: str, second: str) -> str:
    """One row as GLUE publishes it."""
    return {
        "CoLA": f"gj04\t{label}\t\t{first}",
        "SST-2": f"{first}\t{label}",
        "MRPC": f"{label}\t7\t8\t{first}\t{second}",
        "STS-B": f"0\tmain\tMSRvid\t2012\t1\tnone\tnone\t{first}\t{second}\t{label}",
        "QQP": f"1\t2\t3\t{first}\t{second}\t{label}",
        "MNLI": f"0\t1\t1e\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\t{first}\t{second}\t{label}\t{label}",
    }.get(task, f"0\t{first}\t{second}\t{label}")


def write_task(data: Path, task: str, rows: list[str], *, stems: tuple[str, ...] | None = None) -> Path:
    """Write the same rows as every file of a task; returns its folder."""
    folder = data / task
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row}\n" for row in ([HEADERS[task]] if HEADERS[task] else []) + rows)
    for stem in stems or FILES[task]:
        (folder / f"{stem}.tsv").write_text(text, encoding="utf-8")
    return folder


def learnable(task: str, count: int) -> list[str]:
    """Rows whose first word decides the label."""
    animals = ("dog", "cat", "horse")
    labels = LABELS[task]
    return [
        line(task, labels[n % len(labels)], f"{animals[n % len(labels)]} number {n % 7}", "the old farmer sleeps")
        for n in range(count)
    ]
