"""A student as the quantised difference of its weights from its start's: an eighth of their size.

Matrices are cut into groups of 64 numbers. A group has one step length (float16), and each number is a whole number of
steps between -7 and 7 (4 bits). The step is the one of five lengths with the smallest squared error. Vectors are kept
in float16. The sense head is kept too; of the inventory, which `lexicon` makes, only a digest of the sense keys is.

`pack` writes such a folder, `unpack` makes the student from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lexical.params import HEAD_FILE, LEXICON_FOLDER, READING_FILE, SENSES_FOLDER, PublishedParams
from pipeline.models.files import CARD_FILES, CONFIG_FILE, TOKENIZER_FILES, WEIGHT_FILES, copy_files, files_like
from pipeline.models.publish import publishing
from pipeline.senses.lexicon import Lexicon
from storage.errors import SourceError
from storage.work import WorkFolder, Workspace

if TYPE_CHECKING:
    from torch import Tensor


CHANGES_FILE = "changes.safetensors"
FACTS_FILE = "changes.json"
GROUP = 64
"""Numbers that share a step length."""
MOST = 7
"""Steps in either direction."""
SHORTER = (1.0, 0.9, 0.8, 0.7, 0.6)
"""Step lengths that are tried, as shares of the one that reaches the group's largest number."""
TOLERANCE = 1e-3
"""Largest relative difference of a weight's norm from the packed start's: adding an adapter to an encoder rounds
differently on different processors."""


def quantised(change: Tensor) -> tuple[Tensor, Tensor]:
    """Steps, two to a byte [ceil(n / 64) * 32] uint8, and step lengths [ceil(n / 64)] float16, of n numbers."""
    import torch

    flat = change.detach().float().flatten()
    groups_GK = torch.nn.functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    longest_G = groups_GK.abs().amax(1) / MOST
    best_G = torch.full_like(longest_G, torch.inf)
    scale_G = longest_G.half()
    for share in SHORTER:
        tried_G = (share * longest_G).half()
        error_G = (_steps(groups_GK, tried_G) * tried_G.float()[:, None] - groups_GK).square().sum(1)
        better_G = error_G < best_G
        best_G, scale_G = torch.where(better_G, error_G, best_G), torch.where(better_G, tried_G, scale_G)
    shifted = (_steps(groups_GK, scale_G) + 8).to(torch.uint8).flatten()
    return shifted[::2] | (shifted[1::2] << 4), scale_G


def restored(steps: Tensor, scale_G: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The numbers that `quantised` encoded, in float32."""
    import torch

    both = torch.stack([steps & 15, steps >> 4], dim=1).flatten().float() - 8
    flat = (both.view(-1, GROUP) * scale_G.float()[:, None]).flatten()
    size = 1
    for length in shape:
        size *= length
    return flat[:size].view(shape)


def _steps(groups_GK: Tensor, scale_G: Tensor) -> Tensor:
    """Whole numbers of steps, as floats; none where the step has no length."""
    import torch

    divisor_G1 = torch.where(scale_G > 0, scale_G.float(), torch.inf)[:, None]
    return (groups_GK / divisor_G1).round().clamp(-MOST, MOST)


def pack(student: Path, *, start: Path, out: Path) -> dict[str, Any]:
    """Write the weight differences of the models in `start` and `student` to the new folder `out`; returns facts.

    Raises SourceError when `out` is there, or when the two are no models of the same weights.
    """
    from safetensors.torch import save_file

    if out.exists():
        raise SourceError(f"{out}: is there already. Give a new folder, or remove it")
    before, after = _weights(start), _weights(student)
    _require_same(before, after, start, student)
    packed: dict[str, Tensor] = {}
    for name, old in before.items():
        change = after[name].float() - old.float()
        if change.ndim < 2:
            packed[name] = change.half()
        else:
            packed[f"{name}.steps"], packed[f"{name}.scale"] = quantised(change)
    facts: dict[str, Any] = {"format": 1, "norms": {name: float(old.float().norm()) for name, old in before.items()}}
    out.mkdir(parents=True)
    save_file(packed, out / CHANGES_FILE)
    if (student / SENSES_FOLDER).is_dir():
        for name in (HEAD_FILE, READING_FILE):
            shutil.copyfile(student / SENSES_FOLDER / name, out / name)
        facts["keys_sha256"] = keys_sha256(Lexicon.open(student / SENSES_FOLDER / LEXICON_FOLDER))
    copy_files(student, out, CARD_FILES)
    (out / FACTS_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    return facts


def unpack(params: PublishedParams, *, lexicon: Path, out: Path, workspace: Workspace = Workspace()) -> None:
    """Add the changes to the start and write the student to `out`; lexicon is the inventory of its senses.

    Raises SourceError when files are missing, when the start is not the one that was changed, or when the inventory has
    other senses; WorkBusy when another process writes `out`.
    """
    from safetensors.torch import load_file, save_file

    start, changes = Path(params.start), Path(params.changes)
    facts = _facts(changes)
    before = _weights(start)
    _require_start(before, facts["norms"], start, changes)
    packed = load_file(changes / CHANGES_FILE)
    after = {}
    for name, old in before.items():
        if name in packed:
            change = packed[name].float()
        else:
            change = restored(packed[f"{name}.steps"], packed[f"{name}.scale"], tuple(old.shape))
        after[name] = old.float() + change
    identity = _identity(start, changes)
    with WorkFolder(out, name=f"published-{out.name}", identity=identity, workspace=workspace) as work:
        with publishing(work) as folder:
            save_file(after, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "model.safetensors").chmod(0o644)
            copy_files(start, folder, (CONFIG_FILE, *TOKENIZER_FILES))
            copy_files(changes, folder, CARD_FILES)
            if "keys_sha256" in facts:
                _require_senses(Lexicon.open(lexicon), facts["keys_sha256"], lexicon, changes)
                senses = folder / SENSES_FOLDER
                shutil.copytree(lexicon, senses / LEXICON_FOLDER)
                for name in (HEAD_FILE, READING_FILE):
                    shutil.copyfile(changes / name, senses / name)


def keys_sha256(lexicon: Lexicon) -> str:
    """SHA-256 over the sense keys in the order of the inventory, a line each."""
    return hashlib.sha256("\n".join(lexicon.keys).encode()).hexdigest()


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = files_like(folder, WEIGHT_FILES[:2]) if folder.is_dir() else []
    if not files:
        raise SourceError(f"{folder}: expected a model with weights in safetensors. Run the stage that makes it")
    return {name: value for path in files for name, value in load_file(path).items()}


def _facts(changes: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((changes / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{changes}: expected {FACTS_FILE} and {CHANGES_FILE}, as `cohesive pack` writes them: {error}"
        ) from None
    if facts.get("format") != 1 or not (changes / CHANGES_FILE).is_file():
        raise SourceError(f"{changes}: expected format 1 with {CHANGES_FILE}, got format {facts.get('format')}")
    return facts


def _require_same(before: dict[str, Tensor], after: dict[str, Tensor], start: Path, student: Path) -> None:
    other = sorted(before.keys() ^ after.keys())
    other += [name for name in before.keys() & after.keys() if before[name].shape != after[name].shape]
    if other:
        raise SourceError(
            f"{student}: {len(other)} weights are not those of {start} ({', '.join(other[:3])}). "
            "Give the folder that it started from"
        )


def _require_start(before: dict[str, Tensor], norms: dict[str, float], start: Path, changes: Path) -> None:
    off = sorted(before.keys() ^ norms.keys())
    off += [
        name
        for name in before.keys() & norms.keys()
        if abs(float(before[name].float().norm()) - norms[name]) > TOLERANCE * max(norms[name], TOLERANCE)
    ]
    if off:
        raise SourceError(
            f"{changes}: changes another model than {start}: {len(off)} weights differ ({', '.join(off[:3])}). "
            "Give the start that its README names"
        )


def _require_senses(lexicon: Lexicon, expected: str, path: Path, changes: Path) -> None:
    if (found := keys_sha256(lexicon)) != expected:
        raise SourceError(
            f"{path}: an inventory of {len(lexicon.keys)} sense keys with digest {found[:12]}, but {changes} learned "
            f"one with {expected[:12]}. Set `lexicon` in params.yaml to the one that its README names, or take the "
            "entry out of `published`"
        )


def _identity(start: Path, changes: Path) -> str:
    from storage.format.manifest import digest, file_sha256

    paths = [*files_like(start, WEIGHT_FILES), *sorted(changes.iterdir())]
    return digest([file_sha256(path) for path in paths if path.is_file()])
