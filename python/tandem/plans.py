"""Which keys each query sees: made once, used by every layer, forward and backward, on any device.

A segment is a run of query rows that share one context: first its prefix, key rows that other segments may share, then
its own key rows. The queries are the context's last positions. src/kernels/fused_attention/plan.h has the whole rule.
"""

import collections
import functools
import itertools
import threading
import weakref

from . import _core
from ._numbers import whole_number

UNBOUNDED = 2**31 - 1

_handles = itertools.count(1)
_plans_by_handle = weakref.WeakValueDictionary()


class AttentionPlan:
    """A mask of packed sequences.

    segments   N times (query_begin, query_count, prefix_begin, prefix_count, key_begin, key_count): rows, as tuples or
               an int array [N,6] on the host
    T, S       rows of q, and of k and v; default: up to the last row that a segment names
    causal     a query sees no position after its own
    window     (left, right): positions before and after its own that a query sees; None or -1: all of them
    path       which kernels: None the device's best, or "cpu", "sm80", "sm90"

    Threads: any. What a device needs of it is made at its first use there, which on CUDA waits for the stream: use a
    plan once before capturing a CUDA graph with it, and keep it for as long as the graph.
    """

    def __init__(self, segments, *, T=None, S=None, causal=False, window=None, path=None):
        rows = segments.tolist() if hasattr(segments, "tolist") else segments
        self.segments = tuple(tuple(whole_number("segments", word) for word in row) for row in rows)
        if any(len(row) != 6 for row in self.segments):
            raise ValueError("a segment is six numbers: query, prefix and key rows, each as begin and count")
        if any(not 0 <= word < UNBOUNDED for row in self.segments for word in row):
            raise ValueError("segments hold row numbers and counts: 0 or more, below 2**31 - 1")
        query_end = max((row[0] + row[1] for row in self.segments), default=0)
        key_end = max((max(row[2] + row[3], row[4] + row[5]) for row in self.segments), default=0)
        self.T = query_end if T is None else whole_number("T", T)
        self.S = key_end if S is None else whole_number("S", S)
        self.window = normalized_window(causal, window)
        if path not in (None, "cpu", "sm80", "sm90"):
            raise ValueError(f"path {path!r}; expected 'cpu', 'sm80' or 'sm90', or None for the best")
        self.path = path
        named_queries = {row[:2] for row in self.segments}
        named_keys = {}
        for row in self.segments:
            for begin, count in (row[2:4], row[4:6]):
                named_keys[begin] = max(named_keys.get(begin, 0), count)
        # Rows that no segment names are not written, so they are set to zero first.
        self.covers_queries = sum(count for _, count in named_queries) >= self.T
        self.covers_keys = sum(named_keys.values()) >= self.S
        self.handle = next(_handles)  # names the plan where only numbers pass: torch's operators
        _plans_by_handle[self.handle] = self
        self._cores = {}
        self._lock = threading.Lock()

    @classmethod
    def batch(cls, B, S_queries, S_keys=None, *, lengths=None, **options):
        """B sequences of S_queries rows each, and S_keys of keys, one after another, all used; or the first
        lengths[b] rows of sequence b. With S_keys other than S_queries, lengths are those of the keys."""
        S_keys = S_queries if S_keys is None else S_keys
        counts = (S_keys,) * B if lengths is None else host_numbers("lengths", lengths)
        if len(counts) != B or any(not 0 <= n <= S_keys for n in counts):
            raise ValueError(f"lengths: {len(counts)} numbers; expected {B}, each from 0 to {S_keys}")
        segments = [
            (b * S_queries, n if S_queries == S_keys else S_queries, 0, 0, b * S_keys, n) for b, n in enumerate(counts)
        ]
        return cls(segments, T=B * S_queries, S=B * S_keys, **options)

    @classmethod
    def packed(cls, cu_seqlens_q, cu_seqlens_k=None, **options):
        """Sequence i has the query rows cu_seqlens_q[i] to cu_seqlens_q[i+1], and likewise keys."""
        q = _offsets("cu_seqlens_q", cu_seqlens_q)
        k = q if cu_seqlens_k is None else _offsets("cu_seqlens_k", cu_seqlens_k)
        if len(q) != len(k):
            raise ValueError(f"cu_seqlens_q has {len(q)} numbers and cu_seqlens_k {len(k)}; expected as many")
        segments = [
            (q[i], q[i + 1] - q[i], 0, 0, k[i], k[i + 1] - k[i]) for i in range(len(q) - 1)
        ]
        return cls(segments, **{"T": q[-1], "S": k[-1], **options})

    def positions(self):
        """Of each query row in its context, as a list of T numbers (0 for rows that no segment names)."""
        positions = [0] * self.T
        for query_begin, query_count, _, prefix_count, _, key_count in self.segments:
            first = prefix_count + key_count - query_count
            positions[query_begin : query_begin + query_count] = range(first, first + query_count)
        return positions

    def core(self, H, G, D, stream, *, may_create=True):
        """The plan for H query heads, G kv heads and head dim D on the stream's device."""
        key = (H, G, D, stream.device)
        core = self._cores.get(key)
        if core is None:
            if not may_create:
                raise RuntimeError("the attention plan is not on the device yet: run once before capturing a graph")
            with self._lock:
                core = self._cores.get(key)
                if core is None:
                    words = [word for row in self.segments for word in row]
                    core = _core.AttentionPlan(
                        words, self.window, T=self.T, S=self.S, H=H, G=G, D=D, stream=stream, path=self.path
                    )
                    self._cores[key] = core
        return core

    def __reduce__(self):
        """A copy, by pickle or the module copy, is a plan of the same mask, which makes what devices need anew."""
        options = {"T": self.T, "S": self.S, "window": self.window, "path": self.path}
        return functools.partial(type(self), **options), (self.segments,)

    def __repr__(self):
        return f"AttentionPlan({len(self.segments)} segments, T={self.T}, S={self.S}, window={self.window})"


def prompt_answers_plan(prompt_lengths, answer_lengths, *, window=None, path=None):
    """Many answers to each prompt, causal, each prompt computed once.

    Rows: prompt 0, its answers one after another, prompt 1, and so on; q, k and v alike. answer_lengths[i] lists the
    lengths of the answers to prompt i. An answer sees its prompt and itself.
    """
    if len(prompt_lengths) != len(answer_lengths):
        raise ValueError(f"{len(prompt_lengths)} prompts and answers to {len(answer_lengths)}; expected as many")
    segments = []
    row = 0
    for prompt, answers in zip(prompt_lengths, answer_lengths):
        prompt_row = row
        segments.append((row, prompt, 0, 0, row, prompt))
        row += prompt
        for answer in answers:
            segments.append((row, answer, prompt_row, prompt, row, answer))
            row += answer
    return AttentionPlan(segments, T=row, S=row, causal=True, window=window, path=path)


def plan_of_handle(handle):
    plan = _plans_by_handle.get(handle)
    if plan is None:
        raise ValueError("the attention plan is gone: keep it until the backward is done")
    return plan


def normalized_window(causal, window):
    if window is None:
        window = None, None
    if not hasattr(window, "__len__") or len(window) != 2:
        raise ValueError(f"window {window}; expected two numbers, (left, right)")
    left, right = (UNBOUNDED if bound is None or bound == -1 else whole_number("window", bound) for bound in window)
    if not (0 <= left <= UNBOUNDED and 0 <= right <= UNBOUNDED):
        raise ValueError(f"window {window}; expected (left, right), each 0 or more, or None or -1 for no bound")
    return left, 0 if causal else right


class PlanCache:
    """The plans of what was asked for last, by numbers alone. Threads: any."""

    def __init__(self, capacity):
        self._capacity = capacity
        self._plans = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key, make):
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
                return plan
        plan = make()
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > self._capacity:
                self._plans.popitem(last=False)
        return plan


_cache = PlanCache(64)


def batch_plan(B, S_queries, S_keys, window, lengths=None):
    key = ("batch", B, S_queries, S_keys, window, lengths)
    return _cache.get(key, lambda: AttentionPlan.batch(B, S_queries, S_keys, lengths=lengths, window=window))


def packed_plan(q, k, T, S, window):
    return _cache.get(("packed", q, k, T, S, window), lambda: AttentionPlan.packed(q, k, T=T, S=S, window=window))


def host_numbers(name, values):
    """A tuple of ints from a list, an array or a tensor. One on a CUDA device is read once, waiting for it."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__"):
        raise ValueError(f"{name}: {values!r}; expected a list or a tensor of whole numbers, one for each sequence")
    return tuple(whole_number(name, n) for n in values)


def _offsets(name, values):
    numbers = host_numbers(name, values)
    if not numbers or any(a > b for a, b in zip(numbers, numbers[1:])) or numbers[0] < 0:
        raise ValueError(f"{name}: expected ascending row numbers, one more than there are sequences")
    return numbers
