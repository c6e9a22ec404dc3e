"""tandem.FlatSoftTable: the soft read of tandem.SoftBTree for PyTorch tensors on a GPU, in batches.

    r(q) = sum_i w_i K(|q - k_i| / tau) v_i / sum_i w_i K(|q - k_i| / tau)

    table = FlatSoftTable(value_width=64, tau=0.1, capacity=1_000_000)
    ids = table.insert(keys, values)                                       # CUDA tensors, read where they lie
    reads = table.read(queries, keys=keys, values=values, ids=ids)         # reads.sum().backward() reaches them all

The kernels K of tandem.SoftBTree, float32 only, D up to 256; a read is exact over all entries. All runs on torch's
current stream.
"""

from . import _core
from ._numbers import real_number, whole_number


class FlatSoftTable:
    """Entries by ids below `capacity`; an id is used again after its entry was erased. One thread at a time; work on
    different streams is the caller's to order.

    value_width      D, the width of a value
    tau              temperature, above 0
    kernel           "laplace", "matern32" or "epanechnikov", as SoftBTree has them; a query that the last reaches no
                     entry from reads NaN, where SoftBTree refuses it, since a read does not wait for the device
    capacity         entries that it holds at most; all of its memory is taken at once (memory_bytes)
    recent_capacity  entries that may be inserted before all are sorted again
    queries_max      queries of one read that goes backward
    device           "cuda", "cuda:1", ... or a torch.device

    keys [m], values [m,D] (or [m] where D is 1), weights [m] are tensors, or what makes tensors; f32 ones that are dense
    and on the device are used where they lie. insert(), rebuild(), the erasures and read_without() wait for the device,
    which looks for what is not finite and for ids of no entry; the rest does not.
    """

    def __init__(
        self,
        value_width=1,
        tau=1.0,
        *,
        capacity,
        kernel="laplace",
        recent_capacity=8192,
        queries_max=65536,
        device="cuda",
    ):
        self.value_width = whole_number("value_width", value_width, 1, 2**31 - 1)
        self.capacity = whole_number("capacity", capacity)
        self.queries_max = whole_number("queries_max", queries_max)
        recent_capacity, tau = whole_number("recent_capacity", recent_capacity), real_number("tau", tau)
        self._core = _core.FlatSoftTable(
            self.value_width, tau, self.capacity, recent_capacity, self.queries_max, str(device), str(kernel)
        )
        import torch

        device = torch.device(device)
        self.device = device if device.index is not None else torch.device("cuda", 0)

    def __len__(self):
        return len(self._core)

    @property
    def slots(self):
        """Ids in use, from the oldest entry's to the youngest's, erased ones between them too."""
        return self._core.slots

    @property
    def version(self):
        """Rises with every change."""
        return self._core.version

    @property
    def tau(self):
        return self._core.tau

    @property
    def memory_bytes(self):
        return self._core.memory_bytes

    def rebuild(self, keys, values, weights=None):
        """These entries and no others -> ids [m], which are 0, 1, ..."""
        keys, values, weights = self._entries(keys, values, weights)
        self._core.rebuild(*lent(keys, values, weights), self._stream())
        return self._ids(0, keys.shape[0])

    def insert(self, keys, values, weights=None):
        """-> ids [m], int64. All or, if one of them cannot be stored, none."""
        keys, values, weights = self._entries(keys, values, weights)
        first = self._core.insert(*lent(keys, values, weights), self._stream())
        return self._ids(first, keys.shape[0])

    def erase(self, ids):
        """The ids can be given out again once erase_oldest() has passed them, or nothing is left."""
        ids = self._given_ids(ids)
        if ids.numel() > 0:
            self._core.erase(*lent(ids.flatten()), self._stream())

    def erase_oldest(self, count):
        """The `count` ids that have been in use longest, erased ones too: this makes room."""
        self._core.erase_oldest(whole_number("count", count), self._stream())

    def set_tau(self, tau):
        """A new temperature; every sum is made again."""
        self._core.set_tau(real_number("tau", tau), self._stream())

    def read(self, queries, *, keys=None, values=None, weights=None, tau=None, ids=None, return_log_z=False):
        """r(queries) [...,D], and with return_log_z ln Z(queries) [...].

        keys, values and weights are the tensors that the entries `ids` were inserted from, and tau a tensor of one
        element that holds the table's: what is given and requires a gradient gets it. The backward is refused
        (RuntimeError) once the table has changed. A query that is not finite, or reaches no entry, reads NaN."""
        from .flat_soft_table_torch import read_torch

        reads, log_z = read_torch(self, _torch().as_tensor(queries), keys, values, weights, tau, ids)
        return (reads, log_z) if return_log_z else reads

    def read_without(self, ids, *, return_log_z=False):
        """r(k_i) at the key of each entry i of `ids` [...] as if it had never been written -> [...,D], and with
        return_log_z ln Z(k_i) [...]: SoftBTree.read_without where its queries are the entries' own keys. Exact, as
        nothing is subtracted; no gradients, as there. An entry with no other in reach reads NaN. ValueError: ids of no
        entry."""
        torch = _torch()
        ids = self._given_ids(ids)
        reads = torch.empty(ids.numel(), self.value_width, device=self.device)
        log_z = torch.empty(ids.numel(), device=self.device) if return_log_z else None
        if ids.numel() > 0:
            self._core.read_without(*lent(ids.flatten(), reads, log_z), self._stream())
        reads = reads.reshape(*ids.shape, self.value_width)
        return (reads, log_z.reshape(ids.shape)) if return_log_z else reads

    def _stream(self):
        return _core.Stream(f"cuda:{self.device.index}", _torch().cuda.current_stream(self.device).cuda_stream)

    def _ids(self, first, count):
        return (_torch().arange(count, device=self.device) + first) % self.capacity

    def _given_ids(self, ids):
        """As int32, dense, on the device; those beyond all ids stay so."""
        torch = _torch()
        ids = torch.as_tensor(ids, device=self.device)
        if ids.numel() > 0 and (ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex()):
            raise TypeError(f"ids are integers; got {ids.dtype}")
        return ids.clamp(-1, self.capacity).to(torch.int32).contiguous()

    def _array(self, x):
        torch = _torch()
        return torch.as_tensor(x).detach().to(self.device, torch.float32).contiguous()

    def _entries(self, keys, values, weights):
        keys, values = self._array(keys).flatten(), self._array(values)
        if values.numel() != keys.numel() * self.value_width:
            raise ValueError(
                f"values have the shape {tuple(values.shape)}; expected [{keys.numel()},{self.value_width}]"
            )
        weights = None if weights is None else self._array(weights).flatten()
        return keys, values.reshape(keys.numel(), self.value_width), weights


def lent(*tensors):
    """Their memory, for a call of the core."""
    from torch.utils.dlpack import to_dlpack

    return [None if x is None else to_dlpack(x) for x in tensors]


def _torch():
    import torch

    return torch
