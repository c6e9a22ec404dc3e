"""The package with NumPy alone: numbers, layouts, plans, errors."""

import copy
import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import tandem
from reference import attention_numpy

CASES = {
    "full": dict(B=2, S=33, S_keys=50, H=2, G=2, D=16),
    "causal": dict(B=2, S=65, S_keys=65, H=4, G=2, D=64, causal=True),
    "fewer queries": dict(B=1, S=7, S_keys=130, H=3, G=1, D=128, causal=True),
    "more queries than keys": dict(B=1, S=20, S_keys=9, H=2, G=1, D=8, causal=True),
    "window": dict(B=2, S=70, S_keys=70, H=2, G=1, D=32, window=(13, 4)),
    "sliding, causal": dict(B=1, S=150, S_keys=150, H=2, G=1, D=40, causal=True, window=(20, None)),
    "one row": dict(B=1, S=1, S_keys=1, H=1, G=1, D=8),
    "softcap and sinks": dict(B=1, S=40, S_keys=40, H=4, G=4, D=256, causal=True, softcap=2.0, sinks=True),
}


def random_case(case, dtype, seed=0):
    rng = np.random.default_rng(seed)
    B, S, S_keys, H, G, D = (case[name] for name in ("B", "S", "S_keys", "H", "G", "D"))
    q = rng.standard_normal((B, S, H, D)).astype(dtype)
    k, v = (rng.standard_normal((B, S_keys, G, D)).astype(dtype) for _ in range(2))
    sinks = rng.standard_normal(H).astype(np.float64 if dtype == np.float64 else np.float32)
    return q, k, v, sinks if case.get("sinks") else None


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", CASES)
def test_error_is_at_most_twice_that_of_the_plain_formula(name, dtype):
    case = CASES[name]
    q, k, v, sinks = random_case(case, dtype)
    options = {key: case[key] for key in ("causal", "window") if key in case}
    softcap = case.get("softcap", 0.0)
    out, lse = tandem.attention(q, k, v, softcap=softcap, sinks=sinks, return_lse=True, **options)

    plan = tandem.AttentionPlan.batch(case["B"], case["S"], case["S_keys"], **options)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v)]
    scale = case["D"] ** -0.5 if dtype == np.float64 else float(np.float32(case["D"] ** -0.5))
    numbers = dict(scale=scale, softcap=softcap, sinks=sinks)
    # The plain formula in the dtype's own precision, and in a better one.
    sums = np.float64 if dtype == np.float64 else np.float32
    truth, truth_lse = attention_numpy(
        *flat, plan, **numbers, sums=np.longdouble if dtype == np.float64 else np.float64
    )
    plain, plain_lse = attention_numpy(*flat, plan, **numbers, sums=sums, weights=dtype)
    assert out.dtype == dtype and out.shape == q.shape and lse.dtype == sums
    bound = 2 * np.abs(plain.astype(dtype) - truth).max() + 2 * np.finfo(dtype).eps * np.abs(truth).max()
    assert np.abs(out.reshape(truth.shape) - truth).max() <= bound
    ours = lse.transpose(1, 0, 2).reshape(truth_lse.shape)
    seen = np.isfinite(truth_lse)
    assert np.array_equal(seen, np.isfinite(ours))
    bound = 2 * np.abs(plain_lse[seen] - truth_lse[seen]).max() + 4 * np.finfo(sums).eps * np.abs(truth_lse[seen]).max()
    assert np.abs(ours[seen] - truth_lse[seen]).max() <= bound


def test_packed_sequences_are_sequences():
    rng = np.random.default_rng(1)
    lengths = [5, 1, 0, 40]
    offsets = np.cumsum([0, *lengths])
    q, k, v = (rng.standard_normal((46, heads, 16)) for heads in (4, 2, 2))
    out = tandem.attention(q, k, v, causal=True, cu_seqlens_q=offsets)
    for a, b in zip(offsets, offsets[1:]):
        alone = tandem.attention(q[None, a:b], k[None, a:b], v[None, a:b], causal=True)[0]
        assert np.array_equal(out[a:b], alone)


def test_padding_is_neither_read_nor_computed():
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((3, 20, 2, 8)) for _ in range(3))
    lengths = [20, 0, 7]
    for b, n in enumerate(lengths):
        for x in (q, k, v):
            x[b, n:] = np.nan
    out, lse = tandem.attention(q, k, v, causal=True, lengths=lengths, return_lse=True)
    for b, n in enumerate(lengths):
        assert np.all(out[b, n:] == 0) and np.all(lse[b, :, n:] == -np.inf)
        if n:
            assert np.array_equal(out[b, :n], tandem.attention(*(x[b : b + 1, :n] for x in (q, k, v)), causal=True)[0])


def test_lengths_are_those_of_the_keys_where_there_are_other_queries():
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, rows, 2, 8)) for rows in (3, 20, 20))
    out = tandem.attention(q, k, v, causal=True, lengths=[20, 11])
    assert np.array_equal(out[1:], tandem.attention(q[1:], k[1:, :11], v[1:, :11], causal=True))


def test_answers_share_their_prompt():
    rng = np.random.default_rng(4)
    plan = tandem.prompt_answers_plan([10, 3], [[4, 1, 7], [2]])
    assert (plan.T, plan.S) == (27, 27)
    q, k, v = (rng.standard_normal((27, heads, 16)) for heads in (4, 2, 2))
    out = tandem.attention(q, k, v, plan=plan)
    for row, count, prefix_row, prefix_count, *_ in plan.segments:
        rows = np.r_[prefix_row : prefix_row + prefix_count, row : row + count]
        alone = tandem.attention(q[None, rows], k[None, rows], v[None, rows], causal=True)[0]
        assert np.allclose(out[row : row + count], alone[prefix_count:], rtol=0, atol=1e-14)
    assert plan.positions() == [*range(10), *range(10, 14), 10, *range(10, 17), *range(3), 3, 4]


def test_views_give_the_bits_of_copies():
    rng = np.random.default_rng(5)
    qkv = rng.standard_normal((2, 30, 4 + 2 + 2, 16))
    q, k, v = qkv[:, :, :4], qkv[:, :, 4:6], qkv[:, :, 6:]
    expected = tandem.attention(*(np.ascontiguousarray(x) for x in (q, k, v)))
    assert np.array_equal(tandem.attention(q, k, v), expected)
    of_heads = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (q, k, v)]
    assert np.array_equal(tandem.attention(*of_heads), expected)
    of_columns = [np.asfortranarray(x) for x in (q, k, v)]
    assert np.array_equal(tandem.attention(*of_columns), expected)
    reversed_twice = [np.ascontiguousarray(x[:, ::-1])[:, ::-1] for x in (q, k, v)]
    assert np.array_equal(tandem.attention(*reversed_twice), expected)
    for x in (qkv,):
        x.flags.writeable = False
    assert np.array_equal(tandem.attention(q, k, v), expected)


def test_the_core_takes_strides_as_they_are_and_writes_to_views():
    rng = np.random.default_rng(6)
    stream = tandem._core.Stream("cpu", threads_count=1)
    plan = tandem.AttentionPlan.batch(1, 9)
    core = plan.core(2, 2, 8, stream)
    q, k, v = (x[:, :, :8] for x in rng.standard_normal((3, 9, 2, 24)))
    room = np.full((9, 2, 16), 7.0)
    scratch = np.empty(core.forward_scratch_bytes(stream), np.uint8)
    tandem._core.attention_forward(q, k, v, core, 0.5, 0.0, None, room[:, :, 4:12], None, scratch, stream)
    assert np.array_equal(room[:, :, 4:12], tandem.attention(q[None], k[None], v[None], scale=0.5)[0])
    assert np.all(room[:, :, :4] == 7) and np.all(room[:, :, 12:] == 7)


def test_a_plan_serves_any_heads_and_is_made_once():
    plan = tandem.AttentionPlan.batch(1, 12, causal=True)
    stream = tandem._core.Stream("cpu")
    assert plan.core(4, 2, 16, stream) is plan.core(4, 2, 16, stream)
    assert plan.core(4, 2, 16, stream) is not plan.core(2, 2, 16, stream)
    core = plan.core(4, 2, 16, stream)
    assert (core.visible_pairs, core.path, core.words_count) == (12 * 13 // 2, "cpu", 0)
    assert core.key_block >= 1
    rng = np.random.default_rng(7)
    for H, G, D in ((4, 2, 16), (2, 2, 8)):
        q, k, v = (rng.standard_normal((12, heads, D)) for heads in (H, G, G))
        assert np.array_equal(
            tandem.attention(q, k, v, plan=plan), tandem.attention(q[None], k[None], v[None], causal=True)[0]
        )


def test_plans_are_copied_as_their_masks():
    plan = tandem.AttentionPlan([(0, 3, 0, 0, 0, 3)], T=5, S=4, causal=True, window=(2, 1), path="cpu")
    plan.core(1, 1, 8, tandem._core.Stream("cpu"))
    for copied in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), copy.copy(plan)):
        for name in ("segments", "T", "S", "window", "path", "covers_queries", "covers_keys"):
            assert getattr(copied, name) == getattr(plan, name)
        assert copied.handle != plan.handle  # which names one plan


def test_the_cache_of_plans_is_bounded():
    cache = tandem.plans.PlanCache(2)
    made = []

    def get(key):
        return cache.get(key, lambda: made.append(key) or object())

    first = get(1)
    assert get(1) is first
    get(2), get(1), get(3)  # 2 was used longest ago
    assert get(1) is first and made == [1, 2, 3]
    get(2)
    assert made == [1, 2, 3, 2]


def test_segments_may_be_an_array():
    rows = np.array([[0, 3, 0, 0, 0, 3], [3, 2, 0, 3, 3, 2]], np.int32)
    plan = tandem.AttentionPlan(rows, causal=True)
    assert plan.segments == ((0, 3, 0, 0, 0, 3), (3, 2, 0, 3, 3, 2))
    assert (plan.T, plan.S) == (5, 5)


def arrays(T=4, S=4, H=2, G=2, D=8, dtype=np.float64):
    return [np.zeros((1, rows, heads, D), dtype) for rows, heads in ((T, H), (S, G), (S, G))]


@pytest.mark.parametrize(
    "message, call",
    [
        ("head dim 12", lambda: tandem.attention(*arrays(D=12))),
        ("head dim 264", lambda: tandem.attention(*arrays(D=264))),
        ("3 query heads and 2 kv heads", lambda: tandem.attention(*arrays(H=3))),
        ("q is int32", lambda: tandem.attention(*arrays(dtype=np.int32))),
        ("q is int64", lambda: tandem.attention(*arrays(dtype=np.int64))),
        ("q is object", lambda: tandem.attention(*arrays(dtype=object))),
        ("k is <U1", lambda: tandem.attention(arrays()[0], *arrays(dtype=str)[1:])),
        ("v is .* f32", lambda: tandem.attention(*arrays()[:2], arrays(dtype=np.float32)[2])),
        ("v is ", lambda: tandem.attention(*arrays()[:2], arrays(S=5)[2])),
        ("q has 2 axes", lambda: tandem.attention(*(x[0, 0] for x in arrays()))),
        ("expected .B,S,H,D., or .T,H,D. with", lambda: tandem.attention(*(x[0] for x in arrays()))),
        ("holds 1 sequences and k 2", lambda: tandem.attention(arrays()[0], *(x.repeat(2, 0) for x in arrays()[1:]))),
        ("scale nan", lambda: tandem.attention(*arrays(), scale=math.nan)),
        ("softcap -1", lambda: tandem.attention(*arrays(), softcap=-1.0)),
        ("expected the same B and S", lambda: tandem.attention(*arrays(S=4)[:2], np.zeros((2, 2, 2, 8)))),
        ("v 3; expected", lambda: tandem.attention(*arrays()[:2], arrays()[2][0])),
        ("head dim 0", lambda: tandem.attention(*arrays(D=0))),
        ("byte order", lambda: tandem.attention(*(x.astype(">f8") for x in arrays()))),
        ("byte order", lambda: tandem.attention(*arrays(dtype=np.longdouble))),
        ("window", lambda: tandem.attention(*arrays(), window=(-2, 0))),
        ("window 3; .* .left, right.", lambda: tandem.attention(*arrays(), window=3)),
        ("window: 'a' where", lambda: tandem.attention(*arrays(), window="ab")),
        ("window: nan where", lambda: tandem.attention(*arrays(), window=(math.nan, 0))),
        ("lengths: 4; expected a list", lambda: tandem.attention(*arrays(), lengths=4)),
        ("cu_seqlens_q: 4; expected a list", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=4)),
        ("cu_seqlens_q: .0, 4. where", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=[[0, 4]])),
        ("cu_seqlens_q: inf where", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=[0, math.inf])),
        ("cu_seqlens_q: None where", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=[0, None])),
        ("path 3; expected", lambda: tandem.AttentionPlan.batch(1, 4, path=3)),
        ("window .1, 2, 3.", lambda: tandem.attention(*arrays(), window=(1, 2, 3))),
        ("0.5 where a whole number", lambda: tandem.attention(*arrays(), window=(0.5, 0))),
        ("1.7 where a whole number", lambda: tandem.attention(*arrays(), lengths=[1.7])),
        ("1.5 where a whole number", lambda: tandem.AttentionPlan([(0, 1.5, 0, 0, 0, 1)])),
        ("sinks is ", lambda: tandem.attention(*arrays(), sinks=np.zeros(3))),
        ("lengths", lambda: tandem.attention(*arrays(), lengths=[5])),
        ("ascending", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=[0, 3, 2])),
        ("q has rows 0..4", lambda: tandem.attention(*(x[0] for x in arrays()), cu_seqlens_q=[0, 5])),
        ("cu_seqlens_k is there without", lambda: tandem.attention(*arrays(), cu_seqlens_k=[0, 4])),
        ("a plan has its mask", lambda: tandem.attention(*arrays(), causal=True, plan=tandem.AttentionPlan.batch(1, 4))),
        (
            "a plan has its mask",
            lambda: tandem.attention(*arrays(), cu_seqlens_k=[4], plan=tandem.AttentionPlan.batch(1, 4)),
        ),
        (
            "a plan has its mask",
            lambda: tandem.attention(*arrays(), lengths=np.array([4, 4]), plan=tandem.AttentionPlan.batch(1, 4)),
        ),
        ("six numbers", lambda: tandem.AttentionPlan([(0, 1)])),
        ("0 or more", lambda: tandem.AttentionPlan([(0, 1, 0, 0, 0, -1)])),
        ("prompts and answers", lambda: tandem.prompt_answers_plan([1], [])),
        ("path 'fast'", lambda: tandem.attention(*arrays(), plan=tandem.AttentionPlan.batch(1, 4, path="fast"))),
        ("does not run on cpu", lambda: tandem.attention(*arrays(), plan=tandem.AttentionPlan.batch(1, 4, path="sm90"))),
        ("device 'tpu'", lambda: tandem._core.Stream("tpu")),
        ("-1 threads", lambda: tandem._core.Stream("cpu", threads_count=-1)),
    ],
)
def test_errors_name_what_is_wrong(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_array_or_no_plan_is_refused_by_name():
    q, k, v = arrays()
    with pytest.raises(TypeError, match="ndarray, list, ndarray; expected three NumPy arrays"):
        tandem.attention(q, k.tolist(), v)
    with pytest.raises(TypeError, match="plan is of the type int"):
        tandem.attention(q, k, v, plan=4)
    with pytest.raises(TypeError, match="softcap: None where a number"):
        tandem.attention(q, k, v, softcap=None)
    with pytest.raises(TypeError, match="scale: '1' where a number"):
        tandem.attention(q, k, v, scale="1")


def test_lists_are_refused_by_name_where_there_is_no_torch():
    code = """
import sys
sys.modules["torch"] = None
import tandem
try:
    tandem.attention([1.0], [1.0], [1.0])
except TypeError as error:
    sys.exit("three NumPy arrays" not in str(error))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_plan_of_other_rows_is_refused():
    with pytest.raises(ValueError, match="q is "):
        tandem.attention(*(x[0] for x in arrays()), plan=tandem.AttentionPlan.batch(1, 5))


def test_too_little_scratch_is_refused_and_output_must_be_writable():
    stream = tandem._core.Stream("cpu", threads_count=1)
    core = tandem.AttentionPlan.batch(1, 4).core(2, 2, 8, stream)
    q, k, v = (x[0] for x in arrays())
    bytes_count = core.forward_scratch_bytes(stream)
    out = np.empty_like(q)
    if bytes_count:
        with pytest.raises(ValueError, match="scratch"):
            tandem._core.attention_forward(q, k, v, core, 1.0, 0.0, None, out, None, None, stream)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        scratch = np.empty(bytes_count, np.uint8)
        tandem._core.attention_forward(q, k, v, core, 1.0, 0.0, None, out, None, scratch, stream)


def test_other_threads_run_during_a_call():
    """With a switch interval that never ends, another thread runs only while this one has let go of the GIL."""
    q, k, v = (x.repeat(200, 1) for x in arrays(D=64))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        seen_running = False
        for _ in range(5):  # a call may end before the other thread has woken
            begun, ended = threading.Event(), []

            def call(begun=begun, ended=ended):
                begun.set()
                tandem.attention(q, k, v)
                ended.append(True)

            thread = threading.Thread(target=call)
            thread.start()
            begun.wait()
            seen_running = seen_running or not ended
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen_running


def test_threads_get_their_own_results():
    rng = np.random.default_rng(8)
    inputs = [[rng.standard_normal((1, 50, 2, 16)) for _ in range(3)] for _ in range(4)]
    expected = [tandem.attention(*x, causal=True) for x in inputs]
    results = [[] for _ in inputs]

    def work(i):
        for _ in range(10):
            results[i].append(tandem.attention(*inputs[i], causal=True))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, found in enumerate(results):
        assert len(found) == 10 and all(np.array_equal(x, expected[i]) for x in found)


def test_a_forked_child_has_threads_of_its_own():
    code = """
import os, sys
import numpy as np, tandem
x = np.random.default_rng(0).standard_normal((1, 300, 4, 16))
expected = tandem.attention(x, x, x)
child = os.fork()
equal = np.array_equal(tandem.attention(x, x, x), expected)
sys.exit(not equal if child == 0 or os.waitpid(child, 0)[1] == 0 else 1)
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


def test_the_package_says_what_it_has():
    assert set(tandem.__all__) <= set(dir(tandem))
    assert tandem.__version__.count(".") == 2


def test_importing_it_imports_no_framework():
    code = "import sys, tandem; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
