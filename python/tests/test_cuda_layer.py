"""The operators around attention, and the whole layer, on a GPU: numbers against float64, determinism, torch.compile."""

import copy

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
    pytest.skip("no CUDA device from compute capability 8.0", allow_module_level=True)

import tandem  # noqa: E402
from tandem import nn  # noqa: E402

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape, dtype=BF16):
    return torch.randn(shape, device="cuda", dtype=dtype)


def norm_formula(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def heads_formula(q, k, q_weight, k_weight, eps, cos, sin):
    def each(x, weight):
        x = x if weight is None else norm_formula(x, weight, eps)
        R = 2 * cos.shape[-1]
        c, s = (table.view(*x.shape[:-2], 1, -1) for table in (cos, sin))
        return torch.cat((nn.rotate(x[..., :R], c, s), x[..., R:]), -1) if R else x

    return each(q, q_weight), each(k, k_weight)


def compare(ours, formula, inputs, others):
    """Outputs and gradients of ours(*inputs, *others) beside those of the formula in f64, and in f32 then rounded."""

    def run(function, to):
        leaves = [x if x is None else x.to(to or x.dtype).detach().requires_grad_() for x in inputs]
        wide = torch.float64 if to == torch.float64 else F32
        outputs = function(*leaves, *(x.to(wide) if torch.is_tensor(x) else x for x in others))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.manual_seed(1)
        dtype = inputs[0].dtype
        douts = [torch.randn(y.shape, device="cuda", dtype=F32).to(dtype).to(y.dtype) for y in outputs]
        wanted = [x for x in leaves if x is not None]
        return [*outputs, *torch.autograd.grad(outputs, wanted, douts)]

    dtypes = [x.dtype for x in inputs if x is not None]
    truth, plain, found = run(formula, torch.float64), run(formula, F32), run(ours, None)
    dtypes = [inputs[0].dtype] * (len(found) - len(dtypes)) + dtypes
    for i, (a, b, c, dtype) in enumerate(zip(found, plain, truth, dtypes)):
        assert a.dtype == dtype and a.isfinite().all(), i
        error, plain_error = (a.double() - c).abs().max(), (b.to(dtype).double() - c).abs().max()
        floor = 8 * torch.finfo(F32).eps * c.abs().max()
        assert error <= 2 * plain_error + floor, f"{i}: {error:.3e}, plain {plain_error:.3e}"


@pytest.mark.parametrize("dtype, weight_dtype", [(BF16, BF16), (BF16, F32), (F16, F16)])
@pytest.mark.parametrize("shape", [(3, 50, 2048), (7, 100), (2, 3, 5, 65), (40, 9000)])
def test_rms_norm(shape, dtype, weight_dtype):
    weight = 1 + 0.3 * randn(shape[-1], dtype=weight_dtype)
    compare(torch.ops.tandem.rms_norm, norm_formula, [randn(*shape, dtype=dtype), weight], [1e-6])


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("norms", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("D, half", [(128, 64), (64, 16), (96, 48), (50, 25), (128, 0)])
def test_qk_norm_rope(D, half, norms, dtype):
    weights = [1 + 0.3 * randn(D, dtype=dtype) if norm else None for norm in norms]
    angles = 10 * randn(2 * 77, half, dtype=F32)
    q, k = randn(2, 77, 6, D, dtype=dtype), randn(2, 77, 2, D, dtype=dtype)
    compare(torch.ops.tandem.qk_norm_rope, heads_formula, [q, k, *weights], [1e-6, angles.cos(), angles.sin()])


def test_views_give_the_bits_of_copies_and_equal_inputs_equal_bits():
    qkv = randn(300, 8, 128).requires_grad_()
    weight = randn(128).requires_grad_()
    angles = randn(300, 64, dtype=F32)

    def run(copies):
        q, k = qkv.split((4, 2, 2), 1)[:2]
        if copies:
            q, k = q.contiguous(), k.contiguous()
        out = torch.ops.tandem.qk_norm_rope(q, k, weight, weight, 1e-6, angles.cos(), angles.sin())
        return *out, *torch.autograd.grad(out, (qkv, weight), [torch.ones_like(x) for x in out])

    first = run(False)
    for copies in (False, True):
        assert all(torch.equal(a, b) for a, b in zip(run(copies), first))


def test_no_rows():
    x, weight = randn(0, 64).requires_grad_(), randn(64).requires_grad_()
    y = torch.ops.tandem.rms_norm(x, weight, 1e-6)
    dx, dweight = torch.autograd.grad(y.sum(), (x, weight))
    assert y.shape == dx.shape == (0, 64) and (dweight == 0).all()


def unfused(monkeypatch):
    monkeypatch.setattr(nn.layer_ops, "takes_norm", lambda *_: False)
    monkeypatch.setattr(nn.layer_ops, "takes_heads", lambda *_: False)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("rope_theta", [10000.0, None])
def test_the_layer_errs_no_more_than_with_torchs_norms(qk_norm, rope_theta, monkeypatch):
    layer = nn.Attention(512, 8, 2, 64, qk_norm=qk_norm, rope_theta=rope_theta, device="cuda", dtype=BF16)
    plan = tandem.prompt_answers_plan([100], [[30, 50]])
    x, dout = randn(plan.T, 512), randn(plan.T, 512)

    def run(module, x, dout):
        x = x.detach().requires_grad_()
        out = module(x, plan=plan)
        return [y.double().cpu() for y in (out, *torch.autograd.grad(out, [x, *module.parameters()], dout))]

    assert nn.layer_ops.takes_norm(x, layer.input_layernorm.weight)
    fused = run(layer, x, dout)
    unfused(monkeypatch)
    plain = run(layer, x, dout)
    truth = run(copy.deepcopy(layer).double().cpu(), x.double().cpu(), dout.double().cpu())
    for a, b, c in zip(fused, plain, truth):
        error, allowed = (a - c).abs().max(), 2 * (b - c).abs().max() + 4 * torch.finfo(BF16).eps * c.abs().max()
        assert error <= allowed, f"{error:.3e}, allowed {allowed:.3e}"
