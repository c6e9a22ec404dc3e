"""PyTorch on the CPU: gradients, torch.compile, layouts, the layer."""

import gc

import pytest

torch = pytest.importorskip("torch")

import tandem  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from reference import attention_torch  # noqa: E402
from tandem import nn, torch_ops  # noqa: E402, F401


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def leaves(*shapes, dtype=torch.float64):
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plans():
    yield "full", tandem.AttentionPlan.batch(2, 5, 7)
    yield "causal", tandem.AttentionPlan.batch(2, 6, causal=True)
    yield "window", tandem.AttentionPlan.batch(1, 9, window=(2, 1))
    yield "packed", tandem.AttentionPlan.packed([0, 4, 4, 9], [0, 2, 5, 12], causal=True)
    yield "lengths", tandem.AttentionPlan.batch(2, 6, lengths=[4, 0], causal=True)
    yield "prompts", tandem.prompt_answers_plan([4, 1], [[2, 1, 3], [2]])


PLANS = dict(plans())


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("softcap, with_sinks", [(0.0, False), (1.5, True)])
def test_gradients_are_those_of_finite_differences(name, softcap, with_sinks):
    plan = PLANS[name]
    q, k, v, sinks = leaves((plan.T, 4, 8), (plan.S, 2, 8), (plan.S, 2, 8), (4,))

    def call(q, k, v, sinks):
        out, lse = tandem.attention(
            q, k, v, plan=plan, scale=0.5, softcap=softcap, sinks=sinks if with_sinks else None, return_lse=True
        )
        return out, torch.where(lse == -torch.inf, 0, lse)

    assert torch.autograd.gradcheck(call, (q, k, v, sinks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLANS)
def test_errors_are_at_most_twice_those_of_the_plain_formula(name, dtype):
    plan = PLANS[name]
    tensors = leaves((plan.T, 4, 64), (plan.S, 2, 64), (plan.S, 2, 64), dtype=dtype)
    sinks = torch.randn(4, requires_grad=True)
    dout = torch.randn(plan.T, 4, 64, dtype=dtype)

    def run(attention, to):
        inputs = [x.detach().to(to).requires_grad_() for x in tensors]
        s = sinks.detach().to(torch.float64 if to == torch.float64 else torch.float32).requires_grad_()
        out = attention(*inputs, plan=plan, scale=0.125, softcap=2.0, sinks=s)
        out = out[0] if isinstance(out, tuple) else out
        return [x.double() for x in (out, *torch.autograd.grad(out, (*inputs, s), dout.to(to)))]

    truth = run(attention_torch, torch.float64)
    plain = run(attention_torch, dtype)
    ours = run(tandem.attention, dtype)
    for a, b, c in zip(ours, plain, truth):
        floor = 4 * torch.finfo(dtype).eps * c.abs().max()
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + floor


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_torchs_own_attention(causal):
    q, k, v = leaves((2, 17, 4, 16), (2, 17, 2, 16), (2, 17, 2, 16))
    out = tandem.attention(q, k, v, causal=causal, scale=0.25)
    theirs = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal, scale=0.25, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(out, theirs, rtol=1e-12, atol=1e-12)
    dout = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, (q, k, v), dout), torch.autograd.grad(theirs, (q, k, v), dout)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_lse_alone_is_differentiated_and_an_expanded_gradient_is_taken():
    q, k = leaves((1, 6, 2, 8), (1, 6, 2, 8))
    v = torch.randn(1, 6, 2, 8, dtype=torch.float64)
    _, lse = tandem.attention(q, k, v, scale=0.5, return_lse=True)
    ours = torch.autograd.grad(lse.sum(), (q, k))
    scores = 0.5 * q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
    for a, b in zip(ours, torch.autograd.grad(scores.logsumexp(-1).sum(), (q, k))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    tandem.attention(q, k, v).sum().backward()
    assert q.grad.abs().sum() > 0


def test_padding_may_be_nan_and_its_gradients_are_zero():
    q, k, v = (torch.randn(2, 8, 2, 8, dtype=torch.float64) for _ in range(3))
    for x in (q, k, v):
        x[1, 5:] = torch.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = tandem.attention(*inputs, causal=True, lengths=torch.tensor([8, 5]))
    assert torch.all(out[1, 5:] == 0)
    for gradient in torch.autograd.grad(out.sum(), inputs):
        assert torch.all(gradient[1, 5:] == 0) and torch.all(gradient[:, :5].isfinite())


def test_views_give_the_bits_of_copies():
    qkv = torch.randn(2, 12, 8, 16, dtype=torch.float32, requires_grad=True)
    views = qkv.split((4, 2, 2), 2)
    copies = [x.detach().clone().requires_grad_() for x in views]
    out, expected = (tandem.attention(*x, causal=True) for x in (views, copies))
    assert torch.equal(out, expected)
    dout = torch.randn(2, 4, 12, 16).transpose(1, 2)
    gradients = torch.autograd.grad(expected, copies, dout)
    assert torch.equal(torch.autograd.grad(out, qkv, dout)[0], torch.cat(gradients, 2))


def test_equal_inputs_give_equal_bits():
    q, k, v = leaves((1, 100, 2, 32), (1, 100, 2, 32), (1, 100, 2, 32), dtype=torch.bfloat16)
    out = [tandem.attention(q, k, v, causal=True) for _ in range(2)]
    assert torch.equal(*out)
    gradients = [torch.autograd.grad(x.float().sum(), (q, k, v)) for x in out]
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_the_backward_keeps_its_plan():
    q, k, v = leaves((5, 2, 8), (5, 2, 8), (5, 2, 8))
    plan = tandem.AttentionPlan.packed([0, 2, 5], causal=True)
    out = tandem.attention(q, k, v, plan=plan)
    expected = torch.autograd.grad(out, q, torch.ones_like(out), retain_graph=True)[0]
    handle = plan.handle
    del plan
    gc.collect()
    assert torch.equal(torch.autograd.grad(out, q, torch.ones_like(out))[0], expected)
    del out
    gc.collect()
    with pytest.raises(ValueError, match="plan is gone"):
        torch.ops.tandem.attention_forward(q, k, v, None, handle, 0, 0, 1.0, 0.0, True)


@pytest.mark.parametrize("with_plan", [False, True])
def test_compiled_without_graph_breaks(with_plan):
    q, k, v, sinks = leaves((2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8), (4,))

    def call(q, k, v, sinks, plan):
        mask = {"plan": plan} if with_plan else {"causal": True, "window": (3, None)}
        out, lse = tandem.attention(q * 2, k, v, sinks=sinks, softcap=2.0, return_lse=True, **mask)
        return out.sin().sum() + lse.sum()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for S in (6, 6):
        plan = tandem.AttentionPlan.batch(2, S, causal=True, window=(2, None)) if with_plan else None
        expected = torch.autograd.grad(call(q, k, v, sinks, plan), (q, k, v, sinks))
        found = torch.autograd.grad(compiled(q, k, v, sinks, plan), (q, k, v, sinks))
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_compiled_for_any_length():
    compiled = torch.compile(
        lambda q, k, v: tandem.attention(q, k, v, causal=True), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for S in (5, 9, 12):
        q, k, v = leaves((2, S, 2, 8), (2, S, 2, 8), (2, S, 2, 8))
        assert torch.equal(compiled(q, k, v), tandem.attention(q, k, v, causal=True))


@pytest.mark.parametrize("with_sinks", [False, True])
def test_operators_keep_torchs_rules(with_sinks):
    q, k, v, sinks = leaves((2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8), (4,))
    sinks = sinks if with_sinks else None
    numbers = (0, 2, 0, 0.5, 0.0, True)
    torch.library.opcheck(torch.ops.tandem.attention_forward.default, (q, k, v, sinks, *numbers))
    with torch.no_grad():
        out, lse = torch.ops.tandem.attention_forward(q, k, v, sinks, *numbers)
        detached = [None if x is None else x.detach() for x in (q, k, v, sinks, out, lse, torch.randn_like(out))]
        torch.library.opcheck(
            torch.ops.tandem.attention_backward.default,
            (*detached, None, *numbers),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_errors_name_what_is_wrong():
    q, k, v = leaves((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8))
    for message, call in {
        "k is ": lambda: tandem.attention(q, k.float(), v),
        "head dim 4": lambda: tandem.attention(q[..., :4], k[..., :4], v[..., :4]),
        "with cu_seqlens_q or a plan": lambda: tandem.attention(q[0], k[0], v[0]),
        "expected the same B and S": lambda: tandem.attention(q, k, v.reshape(2, 2, 2, 8)),
        "give a head_dim": lambda: nn.Attention(33, 3),
        "4 heads and 3 kv heads": lambda: nn.Attention(32, 4, 3),
        "0 heads": lambda: nn.Attention(32, 0),
        "0 kv heads": lambda: nn.Attention(32, 4, 0),
        "rope_theta 0": lambda: nn.Attention(32, 4, rope_theta=0),
        r"x is \(32,\)": lambda: nn.Attention(32, 4)(torch.zeros(32)),
        r"x is \(5, 32\)": lambda: nn.Attention(32, 4)(torch.zeros(5, 32)),
        r"x is \(1, 5, 32\)": lambda: nn.Attention(32, 4)(torch.zeros(1, 5, 32), cu_seqlens=[0, 5]),
        "a plan or cu_seqlens": lambda: nn.Attention(16, 2)(
            torch.zeros(4, 16), plan=tandem.AttentionPlan.batch(1, 4), cu_seqlens=[0, 4]
        ),
        "plan is for 4 rows": lambda: nn.Attention(16, 2)(torch.zeros(5, 16), plan=tandem.AttentionPlan.batch(1, 4)),
        "scale: requires a gradient": lambda: tandem.attention(q, k, v, scale=torch.tensor(0.5, requires_grad=True)),
        "of the dtype int": lambda: tandem.attention(*(x.detach().long() for x in (q, k, v))),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_no_tensor_is_refused_by_name():
    q = torch.zeros(1, 4, 2, 8)
    with pytest.raises(TypeError, match="Tensor, ndarray, Tensor; expected"):
        tandem.attention(q, q.numpy(), q)


def test_a_second_derivative_is_refused():
    q, k, v = leaves((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8))
    (gradient,) = torch.autograd.grad(tandem.attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradient.square().sum().backward()


def test_forward_mode_is_refused():
    q = torch.randn(1, 4, 2, 8)
    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.func.jvp(lambda x: tandem.attention(x, q, q), (q,), (torch.ones_like(q),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            tandem.attention(q, q, dual)
        tandem.attention(q, q, q)


def test_sinks_may_be_a_list():
    q = torch.randn(1, 4, 2, 8)
    sinks = torch.tensor([0.5, -1.0], requires_grad=True)
    out = tandem.attention(q, q, q, sinks=sinks)
    torch.testing.assert_close(tandem.attention(q, q, q, sinks=[0.5, -1.0]), out)
    out.sum().backward()
    assert sinks.grad.abs().sum() > 0


def layer_by_hand(layer, x, seen):
    """The layer on one sequence [S,C] of one mask [S,S]."""
    normed = F.rms_norm(x, x.shape[-1:], layer.input_layernorm.weight, layer.input_layernorm.eps)
    S, D = len(x), layer.head_dim
    q, k, v = (p(normed).view(S, -1, D).transpose(0, 1) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    q, k = layer.q_norm(q), layer.k_norm(k)

    def rotated(heads):
        angles = torch.arange(S)[:, None] / layer.rope_theta ** (torch.arange(0, D, 2, dtype=x.dtype) / D)
        turns = torch.polar(torch.ones((), dtype=x.dtype), angles)
        pairs = torch.complex(heads[..., : D // 2], heads[..., D // 2 :]) * turns
        return torch.cat((pairs.real, pairs.imag), -1)

    k, v = (x.repeat_interleave(layer.heads // layer.kv_heads, 0) for x in (rotated(k), v))
    scores = (rotated(q) @ k.transpose(1, 2) * D**-0.5).masked_fill(~seen, -torch.inf)
    return x + layer.o_proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(S, -1))


def test_the_layer_batched_and_packed():
    layer = nn.Attention(32, 4, 2, 16, qk_norm=True, rope_theta=100.0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 7, 32)
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    expected = torch.stack([layer_by_hand(layer, sequence, seen) for sequence in x])
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x.flatten(0, 1), cu_seqlens=[0, 7, 14]), expected.flatten(0, 1), rtol=1e-4, atol=1e-5)
    plan = tandem.prompt_answers_plan([4], [[3, 2]])
    answers = torch.cat([x[0], x[1, :2]])  # rows: a prompt of 4, an answer of 3, one of 2
    second = layer(torch.cat([x[0, :4], x[1, :2]])[None])[0, 4:]
    torch.testing.assert_close(layer(answers, plan=plan), torch.cat([expected[0], second]), rtol=1e-4, atol=1e-5)
    weights = list(layer.parameters())
    dout = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, weights, dout), torch.autograd.grad(expected, weights, dout)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_layer_in_double_precision():
    layer = nn.Attention(32, 4, 2, 16, qk_norm=True, rope_theta=100.0, dtype=torch.float64)
    x = torch.randn(1, 200, 32, dtype=torch.float64)
    expected = layer_by_hand(layer, x[0], torch.ones(200, 200, dtype=torch.bool).tril())
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_the_layers_parameters_have_their_usual_names():
    layer = nn.Attention(32, 4, 2, qk_norm=True, sinks=True)
    assert set(layer.state_dict()) == {
        "sinks", *(f"{name}.weight" for name in ("input_layernorm", "q_norm", "k_norm")),
        *(f"{letter}_proj.weight" for letter in "qkvo"),
    }  # fmt: skip
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 5, 32)
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=0)


def test_shapes_are_inferred_on_the_meta_device():
    q = torch.empty(2, 5, 4, 8, device="meta")
    assert tandem.attention(q, q, q, causal=True).shape == q.shape


def test_torch_func_differentiates_it_and_refuses_second_derivatives():
    layer = nn.Attention(16, 2, 1, 8, qk_norm=True, sinks=True, dtype=torch.float64)
    parameters = {name: x.detach() for name, x in layer.named_parameters()}
    x = torch.randn(3, 5, 16, dtype=torch.float64)

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x[None],)).square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        layer.zero_grad()
        layer(x[i : i + 1]).square().sum().backward()
        alone = torch.func.grad(loss)(parameters, x[i])
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(of_each[name][i], parameter.grad, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(alone[name], parameter.grad, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.func.grad(lambda x: torch.func.grad(lambda x: loss(parameters, x))(x).sum())(x[0])
    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.func.hessian(lambda x: loss(parameters, x))(x[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_torchs_own_attention(dtype):
    q, k, v = leaves((1, 6, 2, 8), (1, 6, 2, 8), (1, 6, 2, 8), dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        out = tandem.attention(q, k.to(dtype), v)
        compiled = torch.compile(tandem.attention, fullgraph=True, backend="aot_eager")(q, k.to(dtype), v)
        theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        doubles = [x.double() for x in (q, k, v)]
        assert tandem.attention(*doubles).dtype == torch.float64
    assert out.dtype == theirs.dtype == dtype
    assert torch.equal(out, tandem.attention(q.to(dtype), k.to(dtype), v.to(dtype))) and torch.equal(out, compiled)
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32 and v.grad.isfinite().all()
