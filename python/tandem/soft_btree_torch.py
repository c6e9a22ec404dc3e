"""SoftBTree.read for PyTorch tensors, with gradients."""

import math

import numpy as np
import torch

from ._arrays import check_sources, known_ids


@torch.compiler.disable  # the tree is no tensor: a graph breaks here
def read_torch(tree, queries, keys, values, weights, tau, ids):
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError("SoftBTree.read: torch.func has no part in it; use backward() or torch.autograd.grad")
    keys, values, weights, tau = (None if x is None else torch.as_tensor(x) for x in (keys, values, weights, tau))
    snapshot = tree.snapshot()
    ids = None if ids is None else known_ids(ids, snapshot.ids_end)
    check_sources(tree.value_width, keys, values, weights, ids)
    if tau is not None:
        given = float(tau.detach())
        if not math.isclose(given, snapshot.tau, rel_tol=1e-5):  # an f32 tensor may stand for an f64 tree's
            raise ValueError(f"tau: {given} where the tree's is {snapshot.tau}; call set_tau first")
    return _Read.apply(tree, snapshot, queries, keys, values, weights, tau, ids)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tree, snapshot, queries, keys, values, weights, tau, ids):
        host = tree._array("queries", queries)
        reads = np.empty((host.size, tree.value_width), tree.dtype)
        log_z = np.empty(host.size, tree.dtype)
        snapshot.read(host, reads, log_z)
        # The backward is of this snapshot: what is written later does not change it.
        ctx.tree, ctx.snapshot, ctx.host = tree, snapshot, host
        ctx.ids = ids
        ctx.like = [None if x is None else (x.shape, x.dtype, x.device) for x in (queries, keys, values, weights, tau)]
        reads, log_z = torch.from_numpy(reads), torch.from_numpy(log_z)
        dtype = queries.dtype if queries.is_floating_point() else reads.dtype
        shape = (*queries.shape, tree.value_width)
        return (
            reads.reshape(shape).to(queries.device, dtype),
            log_z.reshape(queries.shape).to(queries.device, dtype),
        )

    @staticmethod
    def backward(ctx, d_reads, d_log_z):
        tree, snapshot = ctx.tree, ctx.snapshot
        wanted = ctx.needs_input_grad[2:7]
        entries, width = snapshot.ids_end, tree.value_width
        sizes = (ctx.host.size, entries, entries * width, entries, 1)
        made = [np.zeros(size, tree.dtype) if want else None for size, want in zip(sizes, wanted)]
        snapshot.backward(ctx.host, tree._array("d_reads", d_reads), tree._array("d_log_z", d_log_z), *made)
        if ctx.ids is not None:
            for i, rows in ((1, (entries,)), (2, (entries, width)), (3, (entries,))):
                if made[i] is not None:
                    made[i] = made[i].reshape(rows)[ctx.ids]
        gradients = []
        for gradient, like in zip(made, ctx.like):
            if gradient is None:
                gradients.append(None)
            else:
                shape, dtype, device = like
                gradients.append(torch.from_numpy(np.ascontiguousarray(gradient)).reshape(shape).to(device, dtype))
        return None, None, *once("SoftBTree.read", gradients), None


def once(name, gradients):
    """Gradients as they are, whose own are refused. (torch's once_differentiable lets them pass as constants, where no
    gradient from above needs one.)"""
    if not torch.is_grad_enabled():  # nobody will want to differentiate these
        return gradients
    return _Once.apply(name, torch.ones((), requires_grad=True), *gradients)


class _Once(torch.autograd.Function):

    @staticmethod
    def forward(ctx, name, anchor, *gradients):
        ctx.name = name
        return tuple(None if x is None else x.view_as(x) for x in gradients)

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(
            f"{ctx.name} has no second derivatives: compute what needs them from the formula, over all entries"
        )
