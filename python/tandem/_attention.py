"""tandem.attention, and what it does with NumPy arrays."""

import os

from . import _core
from ._numbers import real_number
from .plans import AttentionPlan, batch_plan, host_numbers, normalized_window, packed_plan


def attention(
    q,
    k,
    v,
    *,
    causal=False,
    window=None,
    scale=None,
    softcap=0.0,
    sinks=None,
    lengths=None,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    plan=None,
    deterministic=True,
    return_lse=False,
):
    """softmax(scale q k^T) v for each head, without storing the scores.

    q, k, v        [B,S,H,D] each, the S of q and of k and v may differ; or packed [T,H,D] with cu_seqlens_q or a plan.
                   k and v may have fewer heads, G of them, when H is a multiple of G. One dtype: bf16 or f16, on the
                   CPU also f32 and f64. D: a multiple of 8, up to 256. Views are used where they lie if their last axis
                   is dense, their batch and sequence axes merge into one, and (CUDA) they lie on 16 bytes; otherwise
                   they are copied.
    causal         a query sees no key after its own position; the last query stands at the last key
    window         (left, right): how many keys before and after its own a query sees; None or -1: all
    scale          default: 1 / sqrt(D)
    softcap        scores become softcap * tanh(score / softcap); 0: they stay
    sinks          [H]: a score for each head that takes weight and gives nothing
    lengths        [B]: only the first rows of each sequence count, and the others give 0. If q and k have different S,
                   these are the lengths of the keys.
    cu_seqlens_q   [B+1]: rows at which the packed sequences begin, and their end; cu_seqlens_k for k and v if these
                   differ. Best a list or a tensor on the host: one on a GPU is waited for at each call.
    plan           an AttentionPlan in place of all these: the rows of q, k and v are its T and S
    deterministic  the backward adds in a fixed order; without, it may be faster
    returns        [B,S,H,D] or [T,H,D]; with return_lse also ln sum e^score, [B,H,S] or [H,T], in f32 (f64 for f64)

    PyTorch tensors are differentiated with respect to q, k, v and sinks, also through lse, and run on torch's current
    stream, under torch.autocast in its dtype. NumPy arrays run forward on the CPU.
    """
    has_offsets = cu_seqlens_q is not None or cu_seqlens_k is not None
    if plan is not None and (causal or window is not None or lengths is not None or has_offsets):
        raise ValueError("a plan has its mask already: give either a plan or causal, window, lengths, cu_seqlens")
    if has_offsets and cu_seqlens_q is None:
        raise ValueError("cu_seqlens_k is there without cu_seqlens_q: give both, or cu_seqlens_q alone for the same")
    if plan is not None and not isinstance(plan, AttentionPlan):
        raise TypeError(f"plan is of the type {type(plan).__name__}; expected a tandem.AttentionPlan")
    if type(q).__module__ == "numpy":
        from numpy import ndarray as kind

        run = _attention_numpy
    else:
        try:
            from torch import Tensor as kind
        except ModuleNotFoundError:
            kind = ()
        else:
            from .torch_ops import attention_torch as run
    if not (isinstance(q, kind) and isinstance(k, kind) and isinstance(v, kind)):
        names = ", ".join(type(x).__name__ for x in (q, k, v))
        raise TypeError(f"q, k and v are of the types {names}; expected three NumPy arrays or three PyTorch tensors")
    if plan is None and not has_offsets:
        _check_batch(q, k, v)
    window = normalized_window(causal, window)
    scale = max(q.shape[-1], 1) ** -0.5 if scale is None else real_number("scale", scale)
    softcap = real_number("softcap", softcap)
    return run(
        q, k, v, sinks, window, lengths, cu_seqlens_q, cu_seqlens_k, plan, scale, softcap, deterministic, return_lse
    )


def make_plan(q, k, window, lengths, cu_seqlens_q, cu_seqlens_k):
    if cu_seqlens_q is not None:
        if q.ndim != 3 or k.ndim != 3 or lengths is not None:
            raise ValueError("cu_seqlens: q, k and v are [T,H,D], and there are no lengths")
        offsets_q = host_numbers("cu_seqlens_q", cu_seqlens_q)
        offsets_k = offsets_q if cu_seqlens_k is None else host_numbers("cu_seqlens_k", cu_seqlens_k)
        return packed_plan(offsets_q, offsets_k, q.shape[0], k.shape[0], window)
    lengths = None if lengths is None else host_numbers("lengths", lengths)
    return batch_plan(q.shape[0], q.shape[1], k.shape[1], window, lengths)


def _check_batch(q, k, v):
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"q has {q.ndim} axes, k {k.ndim} and v {v.ndim}; "
            "expected [B,S,H,D], or [T,H,D] with cu_seqlens_q or a plan"
        )
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q holds {q.shape[0]} sequences and k {k.shape[0]}; expected as many")
    if k.shape[0] != v.shape[0] or k.shape[1] != v.shape[1]:
        raise ValueError(f"v is {tuple(v.shape)} and k {tuple(k.shape)}; expected the same B and S")


_cpu_streams = []


def cpu_stream():
    """The process's threads for kernels, one per core; callers on several threads take turns."""
    if not _cpu_streams:
        _cpu_streams.append(_core.Stream("cpu"))
    return _cpu_streams[-1]


# A forked child has none of its parent's threads, and makes its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cpu_streams.clear)


def _attention_numpy(
    q, k, v, sinks, window, lengths, cu_seqlens_q, cu_seqlens_k, plan, scale, softcap, deterministic, return_lse
):
    import numpy as np

    del deterministic  # of the backward
    if plan is None:
        plan = make_plan(q, k, window, lengths, cu_seqlens_q, cu_seqlens_k)
    shape = q.shape
    q, k, v = (_packed_numpy(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
    rows, heads, width = q.shape
    stream = cpu_stream()
    core = plan.core(heads, k.shape[1], width, stream)
    sums = np.float64 if q.dtype == np.float64 else np.float32
    out = (np.empty if plan.covers_queries else np.zeros)(q.shape, q.dtype)
    lse = np.full((heads, rows), -np.inf, sums) if return_lse else None
    scratch = np.empty(core.forward_scratch_bytes(stream), np.uint8)
    sinks = None if sinks is None else np.ascontiguousarray(sinks, sums)
    _core.attention_forward(q, k, v, core, scale, softcap, sinks, out, lse, scratch, stream)
    out = out.reshape(shape)
    if not return_lse:
        return out
    return out, lse if len(shape) == 3 else lse.reshape(heads, *shape[:2]).transpose(1, 0, 2)


def _packed_numpy(name, x):
    import numpy as np

    if x.ndim not in (3, 4):
        raise ValueError(f"{name} has {x.ndim} axes; expected [B,S,H,D] or [T,H,D]")
    if not x.dtype.isnative or x.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} is {x.dtype}; expected float16, float32 or float64 in this machine's byte order")
    packed = x if x.ndim == 3 else x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    dense = packed.shape[-1] <= 1 or packed.strides[-1] == packed.itemsize
    return packed if dense and min(packed.strides) >= 0 else np.ascontiguousarray(packed)
