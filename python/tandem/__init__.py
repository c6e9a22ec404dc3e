"""Tandem in Python: fused attention, forward and backward, and the soft B-tree, for PyTorch tensors and NumPy arrays.

Importing this imports neither: `attention` looks at what it is given.
"""

from ._attention import attention
from .plans import AttentionPlan, prompt_answers_plan

__all__ = ["AttentionPlan", "SoftBTree", "attention", "prompt_answers_plan"]


def __getattr__(name):
    # Only the tree needs NumPy.
    if name == "SoftBTree":
        from .soft_btree import SoftBTree

        return SoftBTree
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
