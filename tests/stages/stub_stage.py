"""Stands for any stage: what it writes is a digest of what the stage reads, and it notes that it ran.

Called as: NAME --deps PATH ... --params KEY ... --outs PATH ...
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml


def main(name: str, words: list[str]) -> None:
    lists: dict[str, list[str]] = {"--deps": [], "--params": [], "--outs": []}
    for word in words:
        if word.startswith("--"):
            current = lists[word]
        else:
            current.append(word)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    with Path("ran.log").open("a", encoding="utf-8") as log:
        log.write(f"{name}\n")
    deps = reads(name, lists["--deps"], params)
    settings = {
        key: pick(params, key) for key in lists["--params"] if not (name.startswith("fuse") and key == "teachers")
    }
    text = "ok" if name == "check" else hashlib.sha256(json.dumps([name, settings, digests(deps)]).encode()).hexdigest()
    for out in map(Path, lists["--outs"]):
        file = out if out.suffix else out / "content"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"made": text}), encoding="utf-8")


def reads(name: str, deps: list[str], params: dict[str, Any]) -> list[str]:
    """What the real stage reads of its deps: a fusion its own teachers only, and it refuses others than params name."""
    if name.startswith("fuse@"):
        others = sorted({path.name for path in Path("data/logits").iterdir()} - set(params["teachers"]))
        if others:
            sys.exit(f"data/logits/{others[0]}: not in teachers. Run: python -m stages.prune")
        deps.remove("data/logits")
        deps += [f"data/logits/{teacher}" for teacher in params["fusions"][name.partition("@")[2]]["teachers"]]
    return deps


def pick(params: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        params = params[key]
    return params


def digests(deps: list[str]) -> dict[str, str]:
    files = [file for dep in map(Path, deps) for file in ([dep] if dep.is_file() else dep.rglob("*")) if file.is_file()]
    return {file.as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
