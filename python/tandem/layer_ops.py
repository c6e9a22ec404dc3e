"""What a layer does around attention as PyTorch operators, on CUDA in bf16 and f16, differentiable:

tandem::rms_norm       x [...,C], weight [C]: x / sqrt(mean(x^2) + eps) * weight
tandem::qk_norm_rope   q [...,H,D], k [...,G,D]: that of each head, where there is a weight [D], and then the rotation
                       of pairs (i, i + R/2) by tables cos, sin [T,R/2] f32, a row for each row of heads

Weights are f32 or of the activations' dtype. Each reads its tensors once and rounds once.
"""

import torch
from torch.utils.dlpack import to_dlpack

from . import _core
from .torch_ops import _current_device, _library, differentiable, refusing_second_derivatives

_WIDTH_MAX, _HEAD_DIM_MAX = 16384, 256

_library.define(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", tags=[torch.Tag.pt2_compliant_tag]
)
_library.define(
    "rms_norm_backward(Tensor x, Tensor weight, float eps, Tensor dy) -> (Tensor dx, Tensor dweight)",
    tags=[torch.Tag.pt2_compliant_tag],
)
_library.define(
    "qk_norm_rope(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, float eps, Tensor cos, Tensor sin) "
    "-> (Tensor q_out, Tensor k_out)",
    tags=[torch.Tag.pt2_compliant_tag],
)
_library.define(
    "qk_norm_rope_backward(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, float eps, Tensor cos, Tensor sin, "
    "Tensor dq_out, Tensor dk_out) -> (Tensor dq, Tensor dk, Tensor dq_weight, Tensor dk_weight)",
    tags=[torch.Tag.pt2_compliant_tag],
)


def takes_norm(x, weight):
    """Whether rms_norm does this one."""
    return _takes(x, weight) and x.shape[-1] <= _WIDTH_MAX


def takes_heads(q, k, q_weight, k_weight):
    """Whether qk_norm_rope does these."""
    alike = q.dtype == k.dtype and q.shape[-1] == k.shape[-1] <= _HEAD_DIM_MAX
    return alike and _takes(q, q_weight) and _takes(k, k_weight)


def _takes(x, weight):
    is_half = x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)
    return is_half and (weight is None or weight.dtype in (torch.float32, x.dtype))


@torch.library.impl(_library, "rms_norm", "CUDA")
def _rms_norm(x, weight, eps):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with _current_device(x):
        _core.rms_norm(_rows(x), _dense(weight), eps, 0.0, _rows(y), _stream(x))
    return y


@torch.library.impl(_library, "rms_norm_backward", "CUDA")
def _rms_norm_backward(x, weight, eps, dy):
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.empty(weight.shape, dtype=torch.float32, device=x.device)
    width = x.shape[-1]
    with _current_device(x):
        scratch = _scratch(_core.rms_norm_backward_scratch_bytes(x.numel() // max(width, 1), width), x)
        _core.rms_norm_backward(
            _rows(x), _dense(weight), eps, 0.0, _rows(dy), _rows(dx), to_dlpack(dweight), scratch, _stream(x)
        )
    return dx, dweight.to(weight.dtype)


@torch.library.impl(_library, "qk_norm_rope", "CUDA")
def _qk_norm_rope(q, k, q_weight, k_weight, eps, cos, sin):
    q_out, k_out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    with _current_device(q):
        _core.qk_norm_rope(
            _heads(q),
            _heads(k),
            _dense(q_weight),
            _dense(k_weight),
            eps,
            _dense(cos),
            _dense(sin),
            _heads(q_out),
            _heads(k_out),
            _stream(q),
        )
    return q_out, k_out


@torch.library.impl(_library, "qk_norm_rope_backward", "CUDA")
def _qk_norm_rope_backward(q, k, q_weight, k_weight, eps, cos, sin, dq_out, dk_out):
    dq, dk = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    dweights = [
        torch.empty(0 if weight is None else weight.shape, dtype=torch.float32, device=q.device)
        for weight in (q_weight, k_weight)
    ]
    tokens, half = cos.shape
    with _current_device(q):
        bytes_count = sum(
            _core.qk_norm_rope_backward_scratch_bytes(tokens, *x.shape[-2:], half)
            for x, weight in ((q, q_weight), (k, k_weight))
            if weight is not None
        )
        _core.qk_norm_rope_backward(
            _heads(q),
            _heads(k),
            _dense(q_weight),
            _dense(k_weight),
            eps,
            _dense(cos),
            _dense(sin),
            _heads(dq_out),
            _heads(dk_out),
            _heads(dq),
            _heads(dk),
            None if q_weight is None else to_dlpack(dweights[0]),
            None if k_weight is None else to_dlpack(dweights[1]),
            _scratch(bytes_count, q),
            _stream(q),
        )
    for i, weight in enumerate((q_weight, k_weight)):
        if weight is not None:
            dweights[i] = dweights[i].to(weight.dtype)
    return dq, dk, *dweights


@torch.library.register_fake("tandem::rms_norm", lib=_library)
def _rms_norm_fake(x, weight, eps):
    return x.new_empty(x.shape)


@torch.library.register_fake("tandem::rms_norm_backward", lib=_library)
def _rms_norm_backward_fake(x, weight, eps, dy):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@torch.library.register_fake("tandem::qk_norm_rope", lib=_library)
def _qk_norm_rope_fake(q, k, q_weight, k_weight, eps, cos, sin):
    return q.new_empty(q.shape), k.new_empty(k.shape)


@torch.library.register_fake("tandem::qk_norm_rope_backward", lib=_library)
def _qk_norm_rope_backward_fake(q, k, q_weight, k_weight, eps, cos, sin, dq_out, dk_out):
    dweights = (
        q.new_empty(0, dtype=torch.float32) if weight is None else weight.new_empty(weight.shape)
        for weight in (q_weight, k_weight)
    )
    return q.new_empty(q.shape), k.new_empty(k.shape), *dweights


def _save_norm(ctx, inputs, output):
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _differentiate_norm(ctx, dy):
    x, weight = ctx.saved_tensors
    return *_rms_norm_gradients(x, weight, ctx.eps, dy), None


def _save_heads(ctx, inputs, output):
    q, k, q_weight, k_weight, ctx.eps, cos, sin = inputs
    ctx.save_for_backward(q, k, q_weight, k_weight, cos, sin)


def _differentiate_heads(ctx, dq_out, dk_out):
    q, k, q_weight, k_weight, cos, sin = ctx.saved_tensors
    dq, dk, dq_weight, dk_weight = _qk_norm_rope_gradients(
        q, k, q_weight, k_weight, ctx.eps, cos, sin, dq_out, dk_out
    )
    return (
        dq,
        dk,
        None if q_weight is None else dq_weight,
        None if k_weight is None else dk_weight,
        None,
        None,
        None,
    )


rms_norm = differentiable("rms_norm", _library, _save_norm, _differentiate_norm)
qk_norm_rope = differentiable("qk_norm_rope", _library, _save_heads, _differentiate_heads)
_rms_norm_gradients = refusing_second_derivatives("rms_norm_backward", _library)
_qk_norm_rope_gradients = refusing_second_derivatives("qk_norm_rope_backward", _library)


def _stream(x):
    return _core.Stream(f"cuda:{x.device.index}", torch.cuda.current_stream(x.device).cuda_stream)


def _scratch(bytes_count, x):
    return to_dlpack(torch.empty(bytes_count, dtype=torch.uint8, device=x.device)) if bytes_count else None


def _dense(x):
    return None if x is None else to_dlpack(x.contiguous())


def _rows(x):
    """[...,C] as [T,C], where it lies if its rows are dense."""
    return to_dlpack(_last_dense(x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])))


def _heads(x):
    """[...,H,D] as [T,H,D], where it lies if its heads are dense."""
    heads = x.shape[-2:]
    return to_dlpack(_last_dense(x.reshape(-1, *heads) if x.numel() else x.new_empty(0, *heads)))


def _last_dense(x):
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
