"""Arrays as the core takes them."""

import math

import numpy as np

from ._numbers import whole_number


def is_tensor(x):
    return type(x).__module__.split(".")[0] == "torch"


def array_of(name, x, dtype):
    """A dense array of `dtype` with an axis at least, of an array or a tensor, which may lie anywhere, or of numbers.
    TypeError: what does not hold numbers, or hides some of them."""
    if is_tensor(x):
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()  # NumPy has no bf16
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array; give what it shows, .compressed(), or .filled(number)")
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name}: expected numbers; got {array.dtype}")
    return np.ascontiguousarray(array, dtype)


def uniforms(rng, count):
    """`count` numbers from 0 to 1 of a numpy Generator; None: of one that nobody seeded."""
    rng = np.random.default_rng() if rng is None else rng
    if not isinstance(rng, (np.random.Generator, np.random.RandomState)):
        raise TypeError(f"rng: {rng!r} is no generator; give numpy.random.default_rng(seed), made once")
    return rng.random(whole_number("count", count, 0))


def check_sources(width, keys, values, weights, ids):
    """That the tensors of a read's entries have as many elements as `ids` wants. ValueError: not so."""
    if ids is None:
        if any(x is not None for x in (keys, values, weights)):
            raise ValueError("ids: say which entries keys, values and weights were inserted as")
        return
    for name, x, numbers in (("keys", keys, 1), ("values", values, width), ("weights", weights, 1)):
        want = len(ids) * numbers
        if x is not None and math.prod(x.shape) != want:
            raise ValueError(f"{name}: shape {tuple(x.shape)} for {len(ids)} ids; expected {want} elements")


def known_ids(ids, ids_end):
    """ids_of(), flat, of entries that there are or were. ValueError: others."""
    ids = ids_of(ids).ravel()
    if ids.size > 0 and ids.max() >= ids_end:
        raise ValueError(f"ids: there was never an entry {ids.max()}; give those that insert() returned")
    return ids


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


def id_of(id):
    """One of them."""
    return ids_of(id).item()
