"""FlatSoftTable.read as PyTorch's autograd sees it."""

import torch

from ._arrays import check_sources
from .flat_soft_table import lent
from .soft_btree_torch import once


def read_torch(table, queries, keys, values, weights, tau, ids):
    ids = None if ids is None else torch.as_tensor(ids, device=table.device).flatten().long()
    check_sources(table.value_width, keys, values, weights, ids)
    return _Read.apply(table, queries, keys, values, weights, tau, ids)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, queries, keys, values, weights, tau, ids):
        flat = table._array(queries).flatten()
        reads = torch.empty(flat.numel(), table.value_width, device=table.device)
        log_z = torch.empty(flat.numel(), device=table.device)
        if any(ctx.needs_input_grad) and flat.numel() > table.queries_max:
            raise ValueError(
                f"{flat.numel()} queries are to go backward; the table was made for {table.queries_max}: raise queries_max"
            )
        version = table._core.read(*lent(flat, reads, log_z), table._stream())
        ctx.table, ctx.version = table, version
        ctx.ids = ids
        ctx.like = [None if x is None else (x.shape, x.dtype, x.device) for x in (queries, keys, values, weights, tau)]
        ctx.save_for_backward(flat)
        dtype = queries.dtype if queries.is_floating_point() else torch.float32
        reads, log_z = (x.to(queries.device, dtype) for x in (reads, log_z))
        return reads.reshape(*queries.shape, table.value_width), log_z.reshape(queries.shape)

    @staticmethod
    def backward(ctx, d_reads, d_log_z):
        with torch.no_grad():
            gradients = _Read._gradients(ctx, d_reads, d_log_z)
        return None, *once("FlatSoftTable.read", gradients), None

    @staticmethod
    def _gradients(ctx, d_reads, d_log_z):
        table, (queries,) = ctx.table, ctx.saved_tensors
        width, count = table.value_width, queries.numel()
        sizes = ((count,), (table.capacity,), (table.capacity, width), (table.capacity,), (1,))
        wanted = ctx.needs_input_grad[1:6]
        # Zeros, as slots without an entry are not written.
        made = [torch.zeros(size, device=table.device) if want else None for size, want in zip(sizes, wanted)]
        d_reads = table._array(d_reads).reshape(count, width)
        d_log_z = table._array(d_log_z).flatten()
        if count > 0:
            table._core.backward(*lent(queries, d_reads, d_log_z), ctx.version, *lent(*made), table._stream())
        gradients = []
        for i, (gradient, like) in enumerate(zip(made, ctx.like)):
            if gradient is None:
                gradients.append(None)
                continue
            shape, dtype, device = like
            if 1 <= i <= 3:
                gradient = gradient.index_select(0, ctx.ids)
            gradients.append(gradient.reshape(shape).to(device, dtype))
        return gradients
