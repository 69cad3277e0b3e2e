"""Stands for any stage: what it writes is a digest of what dvc.yaml lets it read, and it notes that it ran.

Called as: STAGE [KEY], in the project's folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml


def main(stage: str, key: str | None = None) -> None:
    params = read("params.yaml")
    body = read("dvc.yaml")["stages"][stage]
    values = params
    if key is not None:
        values = {**params, "key": key, "item": pick(params, body["foreach"][2:-1])[key]}
        body = body["do"]
    body = {
        name: [filled(entry, values) for entry in body.get(name, [])] for name in ("deps", "params", "outs", "metrics")
    }
    with Path("ran.log").open("a", encoding="utf-8") as log:
        log.write(f"{stage}\n" if key is None else f"{stage}@{key}\n")
    deps, tracked = reads(stage, body, params)
    question = [stage, key, {name: pick(params, name) for name in tracked}, digests(deps)]
    text = "ok" if stage == "check" else hashlib.sha256(json.dumps(question).encode()).hexdigest()
    for path in map(Path, body["outs"] + body["metrics"]):
        file = path if path.suffix else path / ("manifest.json" if path.parts[0] == "data" else "content")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"made": text}), encoding="utf-8")


def read(path: str) -> Any:
    return yaml.load(Path(path).read_text(encoding="utf-8"), yaml.CSafeLoader)


def pick(values: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        values = values[name]
    return values


def filled(entry: Any, values: dict[str, Any]) -> str:
    """A path or key with its templates filled in; an output may be a mapping of its path to options."""
    text = entry if isinstance(entry, str) else next(iter(entry))
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(pick(values, found[1])), text)


def reads(stage: str, body: dict[str, list[str]], params: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Deps and params that the real stage reads: a fusion its own teachers only, and it refuses others."""
    deps, tracked = body["deps"], body["params"]
    if stage == "fuse":
        others = sorted({path.name for path in Path("data/logits").iterdir()} - set(params["teachers"]))
        if others:
            sys.exit(f"data/logits/{others[0]}: not in teachers. Run: cohesive prune")
        tracked = [name for name in tracked if name != "teachers"]
        teachers = pick(params, tracked[0])["teachers"]
        deps = [dep for dep in deps if dep != "data/logits"] + [f"data/logits/{teacher}" for teacher in teachers]
    if stage == "fuse_senses":
        teachers = pick(params, tracked[0])["teachers"]
        deps = [dep for dep in deps if dep != "data/soft_labels"] + [f"data/soft_labels/{name}" for name in teachers]
    return deps, tracked


def digests(deps: list[str]) -> dict[str, str]:
    files = [file for dep in map(Path, deps) for file in ([dep] if dep.is_file() else dep.rglob("*")) if file.is_file()]
    return {file.as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


if __name__ == "__main__":
    main(*sys.argv[1:])
