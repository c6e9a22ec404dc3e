"""PyTorch on a GPU: numbers against float64, determinism, streams, CUDA graphs, torch.compile."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
    pytest.skip("no CUDA device from compute capability 8.0", allow_module_level=True)

import tandem  # noqa: E402
from reference import attention_torch  # noqa: E402
from tandem import nn  # noqa: E402

PATHS = ["sm80"] + (["sm90"] if torch.cuda.get_device_capability() == (9, 0) else [])
MASKS = {
    "full": lambda **o: tandem.AttentionPlan.batch(2, 300, 257, **o),
    "causal": lambda **o: tandem.AttentionPlan.batch(2, 321, causal=True, **o),
    "fewer queries": lambda **o: tandem.AttentionPlan.batch(1, 65, 400, causal=True, **o),
    "window": lambda **o: tandem.AttentionPlan.batch(1, 500, window=(100, 37), **o),
    "packed": lambda **o: tandem.AttentionPlan.packed([0, 1, 130, 130, 257, 600], causal=True, **o),
    "lengths": lambda **o: tandem.AttentionPlan.batch(3, 200, lengths=[200, 0, 77], causal=True, **o),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, device="cuda", dtype=dtype)


def tensors_of(plan, H, G, D, dtype=torch.bfloat16):
    """q, k, v and a gradient; rows that the plan does not name hold NaN."""
    q, dout = (randn(plan.T, H, D, dtype=dtype) for _ in range(2))
    k, v = (randn(plan.S, G, D, dtype=dtype) for _ in range(2))
    queries, keys = torch.zeros(plan.T, dtype=torch.bool), torch.zeros(plan.S, dtype=torch.bool)
    for a, n, b, m, c, o in plan.segments:
        queries[a : a + n] = True
        keys[b : b + m] = True
        keys[c : c + o] = True
    unnamed = ~queries, ~keys
    for x in (q, dout):
        x[unnamed[0].cuda()] = torch.nan
    for x in (k, v):
        x[unnamed[1].cuda()] = torch.nan
    return q, k, v, dout, unnamed


def compare(plan, H, G, D, dtype, *, softcap=0.0, with_sinks=False):
    q, k, v, dout, (unnamed_queries, unnamed_keys) = tensors_of(plan, H, G, D, dtype)
    sinks = randn(H, dtype=torch.float32) if with_sinks else None
    dlse = randn(H, plan.T, dtype=torch.float32)

    def run(attention, to):
        # The formula over whole matrices would spread the NaNs.
        clean = attention is attention_torch
        inputs = [(x.nan_to_num() if clean else x).to(to).detach().requires_grad_() for x in (q, k, v)]
        sums = torch.float64 if to == torch.float64 else torch.float32
        if sinks is not None:
            inputs.append(sinks.to(sums).detach().requires_grad_())
        options = {"sinks": inputs[3]} if sinks is not None else {}
        if not clean:
            options["return_lse"] = True
        out, lse = attention(*inputs[:3], plan=plan, scale=D**-0.5, softcap=softcap, **options)
        seen = lse > -torch.inf
        gradients = torch.autograd.grad(
            (out, torch.where(seen, lse, 0)),
            inputs,
            ((dout.nan_to_num() if clean else dout).to(to), torch.where(seen, dlse, 0).to(sums)),
        )
        return [x.detach().double() for x in (out, torch.where(seen, lse, 0), *gradients)]

    truth, plain, ours = run(attention_torch, torch.float64), run(attention_torch, dtype), run(tandem.attention, dtype)
    names = ("out", "lse", "dq", "dk", "dv", "dsinks")
    for name, a, b, c in zip(names, ours, plain, truth):
        assert a.isfinite().all(), name
        floor = 4 * torch.finfo(torch.float32 if name == "lse" else dtype).eps * c.abs().max()
        error, allowed = (a - c).abs().max(), 2 * (b - c).abs().max() + floor
        assert error <= allowed, f"{name}: {error:.3e}, allowed {allowed:.3e}"
    out, _, dq, dk, dv = ours[:5]
    assert (out[unnamed_queries.cuda()] == 0).all() and (dq[unnamed_queries.cuda()] == 0).all()
    assert (dk[unnamed_keys.cuda()] == 0).all() and (dv[unnamed_keys.cuda()] == 0).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D", [64, 96, 128, 256])
@pytest.mark.parametrize("name", MASKS)
def test_errors_are_at_most_twice_those_of_the_plain_formula(name, D, path):
    compare(MASKS[name](path=path), 4, 2, D, torch.bfloat16)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D", [8, 64, 128, 200])
def test_f16_with_softcap_and_sinks(D, path):
    compare(MASKS["packed"](path=path), 6, 2, D, torch.float16, softcap=5.0, with_sinks=True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D", [64, 128, 256])
@pytest.mark.parametrize("H, G", [(1, 1), (8, 1), (3, 3)])
def test_prompts_and_answers(H, G, D, path):
    plan = tandem.prompt_answers_plan([256, 70], [[100, 1, 128], [65, 64]], path=path)
    compare(plan, H, G, D, torch.bfloat16)


def forward_backward(plan, q, k, v, dout, deterministic=True):
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    out = tandem.attention(*inputs, plan=plan, deterministic=deterministic)
    return [out.detach(), *torch.autograd.grad(out, inputs, dout)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D", [64, 128, 256])
def test_equal_inputs_give_equal_bits(D, path):
    plan = tandem.AttentionPlan.batch(3, 1111, causal=True, path=path)
    q, k, v, dout, _ = tensors_of(plan, 8, 2, D)
    first = forward_backward(plan, q, k, v, dout)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(forward_backward(plan, q, k, v, dout), first))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D, count, length", [(64, 3, 1111), (64, 1, 2500), (128, 1, 2500), (256, 1, 2500)])
def test_the_order_of_arrival_is_as_good(D, count, length, path):
    plan = tandem.AttentionPlan.batch(count, length, causal=True, path=path)
    q, k, v, dout, _ = tensors_of(plan, 8, 2, D)
    ordered = forward_backward(plan, q, k, v, dout)
    for a, b in zip(forward_backward(plan, q, k, v, dout, deterministic=False), ordered):
        assert (a.float() - b.float()).abs().max() <= 0.02 * b.float().abs().max()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("D", [64, 128, 256])
def test_a_sequence_has_the_same_bits_in_any_company(D, path):
    lengths = [130, 700, 1, 257]
    offsets = [sum(lengths[:i]) for i in range(5)]
    plan = tandem.AttentionPlan.packed(offsets, causal=True, path=path)
    q, k, v, dout, _ = tensors_of(plan, 4, 2, D)
    together = forward_backward(plan, q, k, v, dout)
    for begin, end in zip(offsets, offsets[1:]):
        alone = tandem.AttentionPlan.packed([0, end - begin], causal=True, path=path)
        for a, b in zip(forward_backward(alone, *(x[begin:end] for x in (q, k, v, dout))), together):
            assert torch.equal(a, b[begin:end])


def test_views_give_the_bits_of_copies():
    qkv = randn(2, 300, 8, 128)
    q, k, v = qkv.split((4, 2, 2), 2)
    expected = tandem.attention(*(x.contiguous() for x in (q, k, v)), causal=True)
    assert torch.equal(tandem.attention(q, k, v, causal=True), expected)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(tandem.attention(*heads_first, causal=True), expected)
    off_16_bytes = [randn(x.numel() + 1)[1:].view(x.shape).copy_(x) for x in (q, k, v)]
    assert torch.equal(tandem.attention(*off_16_bytes, causal=True), expected)


def test_it_runs_on_torchs_current_stream():
    q, k, v = (randn(1, 2048, 8, 128) for _ in range(3))
    expected = tandem.attention(q * 2, k, v)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    for _ in range(3):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # what another stream would overtake
            out = tandem.attention(q * 2, k, v)
        stream.synchronize()
        assert torch.equal(out, expected)


def test_a_cuda_graph_replays_forward_and_backward():
    q, k, v, dout = (randn(2, 500, 4, 128) for _ in range(4))
    plan = tandem.AttentionPlan.batch(2, 500, causal=True)

    def step():
        return forward_backward(plan, q, k, v, dout)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for _ in range(3):
        for x in (q, k, v, dout):
            x.normal_()
        graph.replay()
        torch.cuda.synchronize()
        found = [x.clone() for x in results]
        assert all(torch.equal(a, b) for a, b in zip(found, step()))


def test_compiled_without_graph_breaks():
    layer = nn.Attention(512, 8, 2, 64, qk_norm=True, device="cuda", dtype=torch.bfloat16)
    x = randn(2, 200, 512)
    compiled = torch.compile(layer, fullgraph=True)
    expected = layer(x)
    out = compiled(x)
    assert (out.float() - expected.float()).abs().max() <= 0.03 * expected.float().abs().max()
    weights = list(layer.parameters())
    dout = randn(2, 200, 512)
    for a, b in zip(torch.autograd.grad(out, weights, dout), torch.autograd.grad(expected, weights, dout)):
        assert (a.float() - b.float()).abs().max() <= 0.05 * b.float().abs().max()


def test_errors_name_what_is_wrong():
    q, k, v = (randn(1, 16, 2, 64) for _ in range(3))
    with pytest.raises(ValueError, match="f32 on cuda:0"):
        tandem.attention(*(x.float() for x in (q, k, v)))
    with pytest.raises(ValueError, match="k is .* on cpu"):
        tandem.attention(q, k.cpu(), v)
    with pytest.raises(ValueError, match="path 'cpu' does not run on cuda:0"):
        tandem.attention(q[0], k[0], v[0], plan=tandem.AttentionPlan.batch(1, 16, path="cpu"))
    with pytest.raises(ValueError, match="no CUDA device 99"):
        tandem._core.AttentionPlan([], (0, 0), T=0, S=0, H=1, G=1, D=64, stream=tandem._core.Stream("cuda:99"))


def test_empty_batches():
    for shape in ((0, 5, 2, 64), (2, 0, 2, 64)):
        q, k, v = (randn(*shape).requires_grad_() for _ in range(3))
        out = tandem.attention(q, k, v, causal=True)
        assert out.shape == shape
        out.sum().backward()
        assert q.grad.shape == shape
