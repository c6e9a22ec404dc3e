"""Tandem's kernels in Python: fused attention, forward and backward, for PyTorch tensors and NumPy arrays.

Importing this imports neither: `attention` looks at what it is given.
"""

from ._attention import attention
from .plans import AttentionPlan, prompt_answers_plan

__all__ = ["AttentionPlan", "attention", "prompt_answers_plan"]
