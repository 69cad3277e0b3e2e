"""Every refusal that a user can see, one class per cause.

A message says what is wrong, where, what was expected, what was found, and the command that repairs it.
Stages turn a `DistillError` into one line and exit code 2; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class DistillError(Exception):
    """Base of all refusals: the user can act on the message, nothing was lost."""


class ParamsError(DistillError):
    """A value in params.yaml is unknown, mistyped or impossible; the message starts with its dotted path."""


class SourceError(DistillError):
    """A model, WordNet or a text could not be obtained, or is not what its checksum says."""


class DataError(DistillError):
    """The text that was given cannot be used: unreadable, empty, or more bad lines than the stated share."""


class TeacherRefused(DistillError):
    """The model is no usable masked language model."""


class VocabularyError(DistillError):
    """Two vocabularies that must agree do not."""


class SecondModelError(DistillError):
    """A model was to be loaded while another one is in memory."""


class StoreError(DistillError):
    """Base of everything that can be wrong with a store on disk."""


class StoreMissing(StoreError):
    """There is no sealed store at the path."""


class WrongKind(StoreError):
    """The store holds another kind of record than the reader expects."""


class SchemaMismatch(StoreError):
    """The store was written with a schema this version does not read, or an array differs from the manifest."""


class StaleParent(StoreError):
    """The store was made from other inputs than the present ones."""


class ShardCorrupt(StoreError):
    """A file of the store is missing, truncated or changed since it was sealed."""


class RecordInvalid(StoreError):
    """Values of a shard break an invariant of its record: holes, order, range or mass."""


class WorkBusy(StoreError):
    """Another process is writing the same store."""


class DiskRefused(StoreError):
    """The disk is full, read-only, failing, or not writable for this user; finished work is kept."""


class ArchiveRefused(StoreError):
    """An archive is not that of one store, or its output cannot be written; nothing was published."""


class FetchFailed(StoreError):
    """A store behind a URL is not there, not reachable, or differs from its manifest; fetched files are kept."""


class ClusterError(DistillError):
    """The Dask scheduler cannot be reached, or its workers cannot do the work; what was finished is kept."""


class ProcessLost(DistillError):
    """One of several processes of a training run ended before its end, so all did; the last checkpoint is kept."""


class OutOfMemory(DistillError):
    """A forward of a teacher or a step of training does not fit into the accelerator's memory."""


class PushRefused(DistillError):
    """The hub did not take what was to be published."""
