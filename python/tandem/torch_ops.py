"""Fused attention as PyTorch operators: tandem::attention_forward and tandem::attention_backward.

Both take q [B,S,H,D] or [T,H,D] and a mask in numbers: the handle of an AttentionPlan; or 0, and then q and k hold the
same number of whole sequences, and (left, right) is the window. lse is [H,T]. They run on torch's current stream, with
outputs and scratch from torch's allocator, and know how to be traced (torch.compile) and differentiated.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.utils.dlpack import to_dlpack

from . import _core
from ._attention import cpu_stream, make_plan
from .plans import batch_plan, plan_of_handle

_library = torch.library.Library("tandem", "DEF")
_library.define(
    "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? sinks, SymInt plan, SymInt left, SymInt right, "
    "float scale, float softcap, bool deterministic) -> (Tensor out, Tensor lse)",
    tags=[torch.Tag.pt2_compliant_tag],
)
_library.define(
    "attention_backward(Tensor q, Tensor k, Tensor v, Tensor? sinks, Tensor out, Tensor lse, Tensor dout, "
    "Tensor? dlse, SymInt plan, SymInt left, SymInt right, float scale, float softcap, bool deterministic) "
    "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dsinks)",
    tags=[torch.Tag.pt2_compliant_tag],
)

# Plans whose tables a CUDA graph reads each time it is replayed: nobody can say when the last replay was.
_captured_plans = {}

_make_plan = torch.compiler.disable(make_plan)


def attention_torch(
    q, k, v, sinks, window, lengths, cu_seqlens_q, cu_seqlens_k, plan, scale, softcap, deterministic, return_lse
):
    """tandem.attention for tensors."""
    if plan is None and (lengths is not None or cu_seqlens_q is not None):
        plan = _make_plan(q, k, window, lengths, cu_seqlens_q, cu_seqlens_k)
    q, k, v = autocast(q, k, v)
    if sinks is not None:
        sinks = torch.as_tensor(sinks, dtype=_dtype_of_sums(q), device=q.device)
    refuse_tangents("tandem.attention", q, k, v, sinks)
    out, lse = _attention_forward(
        q, k, v, sinks, 0 if plan is None else plan.handle, *window, scale, softcap, deterministic
    )
    if not return_lse:
        return out
    return out, lse if q.ndim == 3 else lse.unflatten(1, q.shape[:2]).transpose(0, 1)


class _Call:
    """What forward and backward share: the packed inputs, where they run, and the plan there."""

    def __init__(self, q, k, v, plan, left, right):
        self.mask = plan_of_handle(plan) if plan else batch_plan(q.shape[0], q.shape[1], k.shape[1], (left, right))
        self.q, self.k, self.v = packed("q", q), packed("k", k), packed("v", v)
        self.device = q.device
        capturing = False
        if q.is_cuda:
            self.stream = _core.Stream(f"cuda:{q.device.index}", torch.cuda.current_stream(q.device).cuda_stream)
            capturing = torch.cuda.is_current_stream_capturing()
        else:
            self.stream = cpu_stream()
        heads, width = self.q.shape[1:]
        self.core = self.mask.core(heads, self.k.shape[1], width, self.stream, may_create=not capturing)
        if capturing:
            _captured_plans[self.mask.handle] = self.mask

    def scratch(self, bytes_count):
        return to_dlpack(torch.empty(bytes_count, dtype=torch.uint8, device=self.device)) if bytes_count else None

    def empty_queries(self, like):
        return (torch.empty if self.mask.covers_queries else torch.zeros)(
            like.shape, dtype=like.dtype, device=like.device
        )

    def empty_keys(self, like):
        return (torch.empty if self.mask.covers_keys else torch.zeros)(like.shape, dtype=like.dtype, device=like.device)


@torch.library.impl(_library, "attention_forward", "CPU")
@torch.library.impl(_library, "attention_forward", "CUDA")
def _forward(q, k, v, sinks, plan, left, right, scale, softcap, deterministic):
    with _current_device(q):
        call = _Call(q, k, v, plan, left, right)
        out = call.empty_queries(q)
        rows, heads, _ = call.q.shape
        lse = torch.empty((heads, rows), dtype=_dtype_of_sums(q), device=q.device)
        if not call.mask.covers_queries:
            lse.fill_(float("-inf"))
        _core.attention_forward(
            to_dlpack(call.q),
            to_dlpack(call.k),
            to_dlpack(call.v),
            call.core,
            scale,
            softcap,
            _dense(sinks),
            to_dlpack(packed("out", out)),
            to_dlpack(lse),
            call.scratch(call.core.forward_scratch_bytes(call.stream)),
            call.stream,
        )
    return out, lse


@torch.library.impl(_library, "attention_backward", "CPU")
@torch.library.impl(_library, "attention_backward", "CUDA")
def _backward(q, k, v, sinks, out, lse, dout, dlse, plan, left, right, scale, softcap, deterministic):
    with _current_device(q):
        call = _Call(q, k, v, plan, left, right)
        dq, dk, dv = call.empty_queries(q), call.empty_keys(k), call.empty_keys(v)
        dsinks = torch.empty(0 if sinks is None else sinks.shape, dtype=_dtype_of_sums(q), device=q.device)
        _core.attention_backward(
            to_dlpack(call.q),
            to_dlpack(call.k),
            to_dlpack(call.v),
            call.core,
            scale,
            softcap,
            deterministic,
            _dense(sinks),
            to_dlpack(packed("out", out)),
            _dense(lse),
            to_dlpack(packed("dout", dout)),
            _dense(dlse),
            to_dlpack(packed("dq", dq)),
            to_dlpack(packed("dk", dk)),
            to_dlpack(packed("dv", dv)),
            None if sinks is None else to_dlpack(dsinks),
            call.scratch(call.core.backward_scratch_bytes(call.stream)),
            call.stream,
        )
    return dq, dk, dv, dsinks


@torch.library.register_fake("tandem::attention_forward", lib=_library)
def _forward_fake(q, k, v, sinks, plan, left, right, scale, softcap, deterministic):
    rows = q.shape[0] if q.ndim == 3 else q.shape[0] * q.shape[1]
    return q.new_empty(q.shape), q.new_empty((q.shape[-2], rows), dtype=_dtype_of_sums(q))


@torch.library.register_fake("tandem::attention_backward", lib=_library)
def _backward_fake(q, k, v, sinks, out, lse, dout, dlse, plan, left, right, scale, softcap, deterministic):
    dsinks = q.new_empty(0 if sinks is None else sinks.shape, dtype=_dtype_of_sums(q))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dsinks


def _save(ctx, inputs, output):
    q, k, v, sinks, plan, *numbers = inputs
    out, lse = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, sinks, out, lse)
    ctx.numbers = (plan, *numbers)
    # A plan that is traced is a symbol, and then its owner keeps it.
    ctx.plan = plan_of_handle(plan) if type(plan) is int and plan else None


def _differentiate(ctx, dout, dlse):
    q, k, v, sinks, out, lse = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    dq, dk, dv, dsinks = _attention_backward(q, k, v, sinks, out, lse, dout, dlse, *ctx.numbers)
    return dq, dk, dv, None if sinks is None else dsinks, *[None] * len(ctx.numbers)


def autocast(*tensors):
    """In the dtype of torch.autocast where it is on, as torch's own attention takes them; f64 stays."""
    kind = tensors[0].device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):  # of "meta" it cannot be asked
        return tensors
    halves = torch.float32, torch.bfloat16, torch.float16
    return [x.to(torch.get_autocast_dtype(kind)) if x.dtype in halves else x for x in tensors]


def refuse_tangents(name, *tensors):
    """Makes forward-mode differentiation (torch.func.jvp, dual tensors) an error: torch takes the tangents for zero."""
    if torch.compiler.is_compiling():
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise _no_tangents(name)


def _no_tangents(name):
    return RuntimeError(
        f"{name} has no forward-mode derivatives: use backward(), or compute what needs them with torch.nn.functional"
    )


def differentiable(op, library, setup_context, backward):
    """Makes tandem::`op` differentiable, and returns what calls it: the operator; or, under torch.func's transforms,
    which take no operator's derivative, a Function that is the same."""
    overload = getattr(torch.ops.tandem, op)
    torch.library.register_autograd(f"tandem::{op}", backward, setup_context=setup_context, lib=library)

    class Transformable(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs):
            return overload(*inputs)

        @staticmethod
        def jvp(ctx, *tangents):
            raise _no_tangents(f"tandem::{op}")

    Transformable.setup_context = staticmethod(setup_context)
    Transformable.backward = staticmethod(backward)

    def call(*inputs):
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return Transformable.apply(*inputs)
        return overload(*inputs)

    return call


def refusing_second_derivatives(op, library):
    """differentiable(), of an `op` that is itself a derivative: its own, as by backward(create_graph=True), is an
    error. Without, torch warns and takes it for a constant."""

    def refuse(ctx, *gradients):
        raise RuntimeError(
            f"tandem::{op} is a derivative, and there are no second derivatives: compute what needs them with "
            "torch.nn.functional"
        )

    return differentiable(op, library, lambda ctx, inputs, output: None, refuse)


_attention_forward = differentiable("attention_forward", _library, _save, _differentiate)
_attention_backward = refusing_second_derivatives("attention_backward", _library)


def packed(name, x):
    """[B,S,H,D] as [T,H,D]; the same memory if the kernels can read it there."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{name} has {x.ndim} axes; expected [B,S,H,D] or [T,H,D]")
    rows = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) if x.ndim == 4 else x
    row_stride, head_stride, stride = rows.stride()
    readable = stride == 1 or rows.shape[2] == 1
    if x.is_cuda and readable:
        size = rows.element_size()
        readable = rows.data_ptr() % 16 == 0 and row_stride * size % 16 == 0 and head_stride * size % 16 == 0
    return rows if readable else rows.clone(memory_format=torch.contiguous_format)


def _dense(x):
    return None if x is None else to_dlpack(x.contiguous())


def _dtype_of_sums(q):
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _current_device(q):
    return torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext()
