"""What a row of each kind of store is, and what must hold of it."""

from storage.records.base import SPLITS, Record
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

__all__ = ["SPLITS", "FusedTargets", "HiddenStates", "Masks", "Record", "Sequences", "SparseLogits"]
