"""Files of a pinned revision from the Hugging Face hub, or from its local cache when it cannot be reached.

A probe of a few seconds comes first: `snapshot_download` alone tries for half a minute on a machine without network.
Nothing that is fetched is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from storage.errors import SourceError

PROBE_SECONDS = 5.0
"""Time the hub has for its first answer."""
REASON_CHARACTERS = 300

log = logging.getLogger(__name__)


def fetch_snapshot(repo: str, revision: str, *, patterns: Sequence[str], kind: Literal["model", "dataset"]) -> Path:
    """The cached folder with the files of `repo` at commit `revision` that match a pattern.

    `HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_HOME` are respected. Raises SourceError when the hub does not answer and
    the cache lacks the files.
    """
    from huggingface_hub import HfApi, snapshot_download

    unreachable = None
    try:
        HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=PROBE_SECONDS)
    except Exception as error:  # errors of its HTTP library come through, whichever library that is
        unreachable = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}"
        log.info("%s: the hub does not answer; looking into its cache on this machine", repo)
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            repo_type=kind,
            allow_patterns=list(patterns),
            etag_timeout=PROBE_SECONDS,
            local_files_only=unreachable is not None,
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}"
        if unreachable is not None:
            reason = f"{unreachable}; nor does the cache on this machine have it"
        raise SourceError(reason) from error
    return Path(folder)


def latest_commit(repo: str) -> str:
    """The commit of the main branch of a model on the hub; raises SourceError when the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(repo, timeout=PROBE_SECONDS).sha
    except Exception as error:  # errors of its HTTP library come through, whichever library that is
        reason = " ".join(str(error).split())[:REASON_CHARACTERS]
        raise SourceError(
            f"{repo}: the hub does not say its commit ({type(error).__name__}: {reason}). Give it: {repo}@COMMIT"
        ) from error
    if found is None:
        raise SourceError(f"{repo}: the hub names no commit of it. Give one: {repo}@COMMIT")
    return found
