"""tandem.SoftBTree: a memory over scalar keys whose soft read over all entries is exact and differentiable.

    r(q) = sum_i w_i K(|q - k_i| / tau) v_i / sum_i w_i K(|q - k_i| / tau),   in O(log n) a query

NumPy arrays in and out; PyTorch tensors where tensors are given, and then a read is differentiable: give it the tensors
that entries were written from, and their gradients are exact.

    tree = SoftBTree(value_width=1, tau=0.1)
    ids = tree.insert(keys, values)                                   # arrays or tensors
    reads = tree.read(queries)                                        # [m, D]
    reads = tree.read(queries, keys=keys, values=values, ids=ids)     # tensors: reads.sum().backward() reaches them all
"""

import os

import numpy as np

from . import _core
from ._arrays import array_of, id_of, ids_of, is_tensor, uniforms
from ._numbers import real_number, whole_number

_TREES = {"float32": _core.SoftBTreeF32, "float64": _core.SoftBTreeF64}


def _core_of(dtype):
    for name, core in _TREES.items():
        if dtype is not None and np.dtype(name) == dtype:
            return core
    raise ValueError(f"dtype {dtype!r}; expected 'float32' or 'float64'")


class SoftBTree:
    """One writer at a time; reads are of the tree as it is when they begin, and never wait for the writer.

    value_width   D, the width of a value
    tau           temperature, above 0
    kernel        "laplace", e^-u; "matern32", (1 + u) e^-u, which is smooth; or "epanechnikov", 1 - u^2 up to u = 1 and
                  0 beyond (a query that reaches no entry is refused)
    dtype         "float32" or "float64": of keys, values and weights, and of the sums
    """

    def __init__(self, value_width=1, tau=1.0, *, kernel="laplace", dtype="float32"):
        core = _core_of(dtype)
        self.dtype = np.dtype(dtype)
        self.value_width = whole_number("value_width", value_width, 1, 2**31 - 1)
        self._core = core(self.value_width, real_number("tau", tau), str(kernel))

    @classmethod
    def load(cls, path, *, dtype="float32"):
        """What save() wrote of a tree of this dtype: it reads with the same bits and gives out the same ids."""
        made = cls.__new__(cls)
        made._core = _core_of(dtype).load(os.fsdecode(path))
        made.dtype = np.dtype(dtype)
        made.value_width = made._core.value_width
        return made

    def save(self, path):
        """The whole of it, in one file; the old file or the new one is left behind, whatever happens.

        pickle and copy.deepcopy copy a tree by the same bytes."""
        self._core.save(os.fsdecode(path))

    def __len__(self):
        return len(self._core)

    @property
    def version(self):
        """Rises with every change."""
        return self._core.version

    @property
    def tau(self):
        """The temperature; set_tau() changes it."""
        return self._core.snapshot().tau

    @property
    def oldest(self):
        """The id of the entry that was inserted first, or None."""
        return self._core.oldest

    @property
    def lightest(self):
        """The id of the entry of the smallest weight, or None."""
        return self._core.lightest

    def insert(self, keys, values, weights=None):
        """keys [m], values [m,D] (or [m] where D is 1), weights [m] (default: all 1) -> ids [m], uint32.

        All or, if one of them cannot be stored, none."""
        keys, values = self._array("keys", keys), self._array("values", values)
        # The core counts elements; a transposed array has as many.
        if values.ndim > 1 and values.shape != (keys.size, self.value_width):
            raise ValueError(f"values: shape {values.shape}; expected {(keys.size, self.value_width)}")
        ids = np.empty(keys.size, np.uint32)
        weights = None if weights is None else self._array("weights", weights)
        self._core.insert(keys, values, weights, ids)
        return ids

    def erase(self, ids):
        """All of these entries; or, if there is none of one of them, none."""
        self._core.erase(ids_of(ids))

    def set_keys(self, ids, keys):
        """Entry ids[j] moves to keys[j]."""
        self._core.set_keys(ids_of(ids), self._array("keys", keys))

    def set_value(self, id, value):
        """value [D]."""
        self._core.set_value(id_of(id), self._array("value", value))

    def set_weight(self, id, weight):
        """0: the entry stays and is not read."""
        self._core.set_weight(id_of(id), real_number("weight", weight))

    def set_tau(self, tau):
        """A new temperature; every sum in the tree is made again."""
        self._core.set_tau(real_number("tau", tau))

    def sgd_values(self, query, d_read, rate):
        """One step of gradient descent on the values of all entries that `query` reaches."""
        query, rate = real_number("query", query), real_number("rate", rate)
        self._core.sgd_values(query, self._array("d_read", d_read), rate)

    def snapshot(self):
        """The tree as it is now, for reads that many changes to come must not touch."""
        return self._core.snapshot()

    def read(self, queries, *, keys=None, values=None, weights=None, tau=None, ids=None, return_log_z=False):
        """r(queries): [...,D] for queries [...], and with return_log_z ln Z(queries) [...].

        For queries that are a tensor, keys, values and weights are those that the entries `ids` were inserted from, and
        tau a tensor of one element that holds the tree's: what is given and requires a gradient gets it. (Another
        temperature is set_tau's business.)"""
        if is_tensor(queries):
            from .soft_btree_torch import read_torch

            reads, log_z = read_torch(self, queries, keys, values, weights, tau, ids)
        else:
            given = {"keys": keys, "values": values, "weights": weights, "tau": tau, "ids": ids}
            for name, x in given.items():
                if x is not None:
                    raise ValueError(f"{name}: for gradients, so only beside queries that are a tensor; leave it out")
            queries = self._array("queries", queries)
            reads = np.empty((queries.size, self.value_width), self.dtype)
            log_z = np.empty(queries.size, self.dtype) if return_log_z else None
            self._core.snapshot().read(queries, reads, log_z)
            reads = reads.reshape(*queries.shape, self.value_width)
            log_z = None if log_z is None else log_z.reshape(queries.shape)
        return (reads, log_z) if return_log_z else reads

    def read_without(self, queries, except_ids):
        """r(queries[j]) as if entry except_ids[j] had never been written."""
        queries = self._array("queries", queries)
        reads = np.empty((queries.size, self.value_width), self.dtype)
        self._core.snapshot().read_without(queries, ids_of(except_ids), reads)
        return reads

    def sample(self, queries, rng=None):
        """ids [m], each drawn with its weight in the read of its query. rng: a numpy Generator."""
        queries = self._array("queries", queries)
        ids = np.empty(queries.size, np.uint32)
        self._core.snapshot().sample(queries, uniforms(rng, queries.size), ids)
        return ids

    def log_prob(self, queries, ids):
        """The logarithm of the weight of entry ids[j] in the read of queries[j]."""
        queries = self._array("queries", queries)
        out = np.empty(queries.size, self.dtype)
        self._core.snapshot().log_prob(queries, ids_of(ids), out)
        return out

    def _array(self, name, x):
        return array_of(name, x, self.dtype)
