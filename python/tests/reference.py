"""What the tests compare with: the formula over whole matrices, in any precision, for NumPy and for torch."""

import numpy as np


def visible_keys(plan):
    """[T,S] bool: which keys each query sees."""
    seen = np.zeros((plan.T, plan.S), bool)
    left, right = plan.window
    for query_begin, query_count, prefix_begin, prefix_count, key_begin, key_count in plan.segments:
        keys = np.r_[prefix_begin : prefix_begin + prefix_count, key_begin : key_begin + key_count]
        for t in range(query_count):
            p = len(keys) - query_count + t
            seen[query_begin + t, keys[max(0, p - left) : max(0, p + right + 1)]] = True
    return seen


def attention_numpy(q, k, v, plan, *, scale, softcap=0.0, sinks=None, sums=np.float64, weights=None):
    """q [T,H,D], k and v [S,G,D] -> out, lse [H,T], in the dtype `sums`; the softmax rounded to `weights` first."""
    q, k, v = (x.astype(sums).transpose(1, 0, 2) for x in (q, k, v))
    k, v = (np.repeat(x, len(q) // len(x), axis=0) for x in (k, v))
    s = sums(scale) * (q @ k.transpose(0, 2, 1))
    if softcap:
        s = softcap * np.tanh(s / softcap)
    s = np.where(visible_keys(plan), s, -np.inf)
    columns = s if sinks is None else np.concatenate([s, np.broadcast_to(sinks[:, None, None], s.shape[:2] + (1,))], 2)
    top = columns.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    total = np.exp(columns - top).sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    p = np.exp(s - top) / np.where(total == 0, 1, total)
    return (p.astype(weights or sums).astype(sums) @ v).transpose(1, 0, 2), lse


def attention_torch(q, k, v, plan, *, scale, softcap=0.0, sinks=None):
    """The same for tensors, in q's dtype throughout (the softmax of 16-bit scores in f32), differentiable."""
    import torch

    seen = torch.from_numpy(visible_keys(plan)).to(q.device)
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], 0) for x in (k, v))
    s = scale * (q @ k.transpose(1, 2))
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    sums = torch.float64 if q.dtype == torch.float64 else torch.float32
    s = s.to(sums).masked_fill(~seen, -torch.inf)
    columns = s if sinks is None else torch.cat([s, sinks.to(sums)[:, None, None].expand(-1, s.shape[1], 1)], 2)
    lse = torch.logsumexp(columns, -1)
    weights = torch.exp(s - torch.where(lse == -torch.inf, 0, lse)[..., None]).masked_fill(~seen, 0)
    return (weights.to(v.dtype) @ v).transpose(0, 1), lse
