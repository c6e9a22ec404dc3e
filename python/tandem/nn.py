"""The attention layer of a transformer as a torch module."""

import weakref

import torch

from . import layer_ops
from ._attention import attention
from .plans import host_numbers, normalized_window, packed_plan

_positions_of_plans = weakref.WeakKeyDictionary()


class Attention(torch.nn.Module):
    """x + o_proj(attention(rope(q_norm(q)), rope(k_norm(k)), v)), where q, k and v are projections of RMSNorm(x).

    Its parameters have the names that Hugging Face's Llama and Qwen layers give them (input_layernorm there lies beside
    self_attn, here beside q_proj). q_norm and k_norm are there with qk_norm, sinks [H] with sinks.

    rope_theta   None: positions are not rotated in
    scale        default: 1 / sqrt(head_dim)

    On CUDA in bf16 and f16 the norms and the rotation are Tandem's kernels too, in f32 and rounded once.
    """

    def __init__(
        self,
        width,
        heads,
        kv_heads=None,
        head_dim=None,
        *,
        causal=True,
        window=None,
        softcap=0.0,
        scale=None,
        sinks=False,
        qk_norm=False,
        bias=False,
        rope_theta=10000.0,
        norm_eps=1e-6,
        deterministic=True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads
        if self.heads < 1 or self.kv_heads < 1:
            raise ValueError(f"{self.heads} heads and {self.kv_heads} kv heads; expected at least one of each")
        self.head_dim = width // heads if head_dim is None else head_dim
        if self.heads % self.kv_heads != 0:
            raise ValueError(f"{self.heads} heads and {self.kv_heads} kv heads; expected heads to be a multiple")
        if self.head_dim % 8 != 0 or not 8 <= self.head_dim <= 256:
            raise ValueError(f"heads of {self.head_dim} numbers; give a head_dim that is a multiple of 8, up to 256")
        if rope_theta is not None and not rope_theta > 0:
            raise ValueError(f"rope_theta {rope_theta}; expected a number above 0, or None for no rotation")
        self.window = normalized_window(causal, window)
        self.softcap, self.scale, self.rope_theta, self.deterministic = softcap, scale, rope_theta, deterministic
        where = {"device": device, "dtype": dtype}
        self.input_layernorm = torch.nn.RMSNorm(width, eps=norm_eps, **where)
        self.q_proj = torch.nn.Linear(width, self.heads * self.head_dim, bias=bias, **where)
        self.k_proj = torch.nn.Linear(width, self.kv_heads * self.head_dim, bias=bias, **where)
        self.v_proj = torch.nn.Linear(width, self.kv_heads * self.head_dim, bias=bias, **where)
        self.o_proj = torch.nn.Linear(self.heads * self.head_dim, width, bias=bias, **where)
        self.q_norm = torch.nn.RMSNorm(self.head_dim, eps=norm_eps, **where) if qk_norm else torch.nn.Identity()
        self.k_norm = torch.nn.RMSNorm(self.head_dim, eps=norm_eps, **where) if qk_norm else torch.nn.Identity()
        self.sinks = torch.nn.Parameter(torch.zeros(heads, **where)) if sinks else None

    def forward(self, x, *, positions=None, lengths=None, cu_seqlens=None, plan=None):
        """x [B,S,C]; or packed [T,C] with cu_seqlens, or with a plan, whose mask then stands in place of the layer's.

        positions   [B,S], [S] or [T]: default, those in each sequence's context. Give them in a compiled function.
        """
        if plan is not None and cu_seqlens is not None:
            raise ValueError("a plan has its mask already: give either a plan or cu_seqlens")
        axes = (2, 3) if plan is not None else (3,) if cu_seqlens is None else (2,)
        if x.ndim not in axes:
            raise ValueError(f"x is {tuple(x.shape)}; expected [B,S,C], or [T,C] with cu_seqlens or a plan")
        if cu_seqlens is not None:
            offsets = host_numbers("cu_seqlens", cu_seqlens)
            plan = packed_plan(offsets, offsets, x.shape[0], x.shape[0], self.window)
        normed = rms_norm(x, self.input_layernorm)
        q = self.q_proj(normed).unflatten(-1, (self.heads, self.head_dim))
        k = self.k_proj(normed).unflatten(-1, (self.kv_heads, self.head_dim))
        v = self.v_proj(normed).unflatten(-1, (self.kv_heads, self.head_dim))
        if self.rope_theta is not None:
            if positions is None and plan is not None:
                if plan.T != x.shape[:-1].numel():
                    raise ValueError(f"x is {tuple(x.shape)}, and the plan is for {plan.T} rows")
                positions = plan_positions(plan, x.device).view(x.shape[:-1])
            if positions is None:
                positions = torch.arange(x.shape[-2], device=x.device)
        q, k = norm_and_rotate(q, k, self.q_norm, self.k_norm, positions, self.rope_theta)
        out = attention(
            q,
            k,
            v,
            window=self.window if plan is None else None,
            lengths=lengths,
            plan=plan,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            deterministic=self.deterministic,
        )
        return x + self.o_proj(out.flatten(-2))


def rms_norm(x, norm):
    """norm(x), of a torch.nn.RMSNorm."""
    if layer_ops.takes_norm(x, norm.weight):
        return layer_ops.rms_norm(x, norm.weight, norm.eps)
    return norm(x)


def norm_and_rotate(q, k, q_norm, k_norm, positions, theta):
    """q [...,H,D] and k [...,G,D] through their norms (torch.nn.RMSNorm or Identity), and then, unless theta is None,
    rotated by positions, which broadcast to [...]."""
    q_weight, k_weight = getattr(q_norm, "weight", None), getattr(k_norm, "weight", None)
    if theta is None and q_weight is None and k_weight is None:
        return q, k
    D = q.shape[-1]
    if not layer_ops.takes_heads(q, k, q_weight, k_weight):
        q, k = q_norm(q), k_norm(k)
        if theta is None:
            return q, k
        cos, sin = rope_table(positions, D, theta, q.dtype)
        return rotate(q, cos, sin), rotate(k, cos, sin)
    rows = q.shape[:-2]
    if theta is None:
        cos = sin = torch.empty((rows.numel(), 0), dtype=torch.float32, device=q.device)
    else:
        tables = rope_table(positions, D, theta, torch.float32)
        cos, sin = (table.squeeze(-2).expand(*rows, D // 2).reshape(-1, D // 2) for table in tables)
    return layer_ops.qk_norm_rope(q, k, q_weight, k_weight, getattr(q_norm, "eps", 0.0), cos, sin)


def rope_table(positions, head_dim, theta, dtype):
    """cos and sin [..., 1, D/2] of positions [...]: pair i of a head is (i, i + D/2), its angle position theta^(-2i/D)."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=wide) / head_dim
    angles = positions.to(wide)[..., None] / theta**exponents
    return angles.cos().to(dtype).unsqueeze(-2), angles.sin().to(dtype).unsqueeze(-2)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def plan_positions(plan, device):
    """plan.positions() as a tensor on the device, made once for each."""
    by_device = _positions_of_plans.setdefault(plan, {})
    if device not in by_device:
        by_device[device] = torch.tensor(plan.positions(), device=device)
    return by_device[device]
