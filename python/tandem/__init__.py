"""Tandem in Python: fused attention, forward and backward, the soft B-tree and the memories made of it, for PyTorch
tensors and NumPy arrays.

Importing this imports neither: `attention` looks at what it is given.
"""

from ._attention import attention
from .plans import AttentionPlan, prompt_answers_plan

# Only these need NumPy (FlatSoftTable: PyTorch).
_MEMORIES = {
    "SoftBTree": "soft_btree",
    "FlatSoftTable": "flat_soft_table",
    "PrioritizedReplay": "memories",
    "EpisodicValue": "memories",
    "Curriculum": "memories",
}

__all__ = ["AttentionPlan", "attention", "prompt_answers_plan", *_MEMORIES]


def __dir__():
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tandem")
        except PackageNotFoundError:
            raise AttributeError("tandem.__version__: the package is not installed, only on the path") from None
    if name not in _MEMORIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MEMORIES[name]}", __name__), name)
