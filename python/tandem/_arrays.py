"""Arrays as the core takes them."""

import numpy as np


def is_tensor(x):
    return type(x).__module__.split(".")[0] == "torch"


def ids_of(ids):
    """Dense uint32, of integers that are. TypeError: other numbers. ValueError: out of range."""
    if is_tensor(ids):
        ids = ids.detach().cpu().numpy()
    ids = np.asarray(ids)
    if ids.size > 0:
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids are integers; got {ids.dtype}")
        if ids.min() < 0 or ids.max() > np.iinfo(np.uint32).max:
            raise ValueError(f"ids are from 0 to 2^32 - 1; got {ids.min()} to {ids.max()}")
    return np.ascontiguousarray(ids, np.uint32)
