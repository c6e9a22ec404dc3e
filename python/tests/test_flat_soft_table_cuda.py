"""tandem.FlatSoftTable on a GPU: against the formula over all entries in float64, with its gradients; histories; errors."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
    pytest.skip("no CUDA device from compute capability 8.0", allow_module_level=True)

from tandem import FlatSoftTable, SoftBTree  # noqa: E402

TOLERANCE = 3e-6  # of each result's scale, as the core's own tests have it


KERNELS = ("laplace", "matern32", "epanechnikov")


def dense(queries, keys, values, weights, tau, kernel="laplace"):
    """r(queries), ln Z(queries), by the formula."""
    u = (queries[:, None] - keys[None, :]).abs() / tau
    if kernel == "epanechnikov":
        mass = weights * torch.where(u < 1, (1 - u) * (1 + u), 0.0)
        return mass @ values / mass.sum(1, keepdim=True), mass.sum(1).log()
    scores = weights.log() - u
    if kernel == "matern32":
        scores = scores + u.log1p()
    return scores.softmax(1) @ values, scores.logsumexp(1)


def made(n, m, width, dtype=torch.float32):
    torch.manual_seed(n + 7 * m + 31 * width)
    keys, queries = torch.randn(n, device="cuda"), torch.randn(m, device="cuda")
    values, weights = torch.randn(n, width, device="cuda"), torch.rand(n, device="cuda") + 0.1
    return [x.to(dtype) for x in (queries, keys, values, weights)]


def near(ours, truth, scale=None, tolerance=TOLERANCE):
    scale = truth.abs().max() if scale is None else scale
    assert ours.shape == truth.shape and ours.isfinite().all()
    error = (ours.double() - truth).abs().max() / scale
    assert error <= tolerance, f"{error:.2e} of the scale"


@pytest.mark.parametrize("n, m, width", [(1, 1, 1), (15, 3, 2), (17, 40, 16), (1000, 333, 64), (4097, 1000, 5)])
@pytest.mark.parametrize("tau", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_reads_and_all_gradients_are_the_formulas(n, m, width, tau, kernel):
    inputs = made(n, m, width)
    if kernel == "epanechnikov":  # each query with a key well in reach
        inputs[0] = inputs[1][torch.arange(m, device="cuda") % n] + 0.5 * tau * torch.rand(m, device="cuda")
    table = FlatSoftTable(width, tau, kernel=kernel, capacity=n + 3, recent_capacity=8, queries_max=m)
    ids = table.insert(*inputs[1:])
    assert len(table) == table.slots == n and ids.tolist() == list(range(n))

    queries, keys, values, weights = ours = [x.clone().requires_grad_() for x in inputs]
    tau_ours = torch.tensor(tau, device="cuda", requires_grad=True)
    reads, log_z = table.read(
        queries, keys=keys, values=values, weights=weights, tau=tau_ours, ids=ids, return_log_z=True
    )
    truth = [x.double().requires_grad_() for x in inputs]
    # What the table holds is a float.
    tau_truth = torch.tensor(table.tau, dtype=torch.float64, device="cuda", requires_grad=True)
    true_reads, true_log_z = dense(*truth, tau_truth, kernel)
    near(reads, true_reads, inputs[2].abs().max())
    near(log_z, true_log_z, 1 + true_log_z.abs().max())

    d_reads, d_log_z = torch.randn_like(reads), torch.randn_like(log_z)
    got = torch.autograd.grad((reads, log_z), (*ours, tau_ours), (d_reads, d_log_z))
    want = torch.autograd.grad(
        (true_reads, true_log_z), (*truth, tau_truth), (d_reads.double(), d_log_z.double())
    )
    # Each is a sum of terms of about this size, some of which cancel.
    size = d_reads.abs().sum(1).max() * inputs[2].abs().max() + d_log_z.abs().max()
    scales = (size / tau, size * m / tau, d_reads.abs().max() * m, size * m / inputs[3].min(), size * m * 8 / tau**2)
    for name, a, b, scale in zip(("queries", "keys", "values", "weights", "tau"), got, want, scales):
        assert a.shape == b.shape, name
        near(a, b, scale.clamp(min=1e-30))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_small_changes(kernel):
    """In float32, so by wide differences; the CPU's tree is checked by gradcheck in float64."""
    _, _, values, weights = (x.requires_grad_() for x in made(50, 9, 3))
    # No query comes near a key, where the kernel has a kink.
    keys = torch.linspace(-2, 2, 50, device="cuda")
    queries = ((keys[::6] + keys[1::6][:9]) / 2).requires_grad_()
    keys.requires_grad_()
    tau = torch.tensor(0.7, device="cuda", requires_grad=True)

    def loss(queries, keys, values, weights, tau):
        table = FlatSoftTable(3, float(tau.detach()), kernel=kernel, capacity=50, queries_max=9)
        ids = table.rebuild(keys, values, weights)
        reads, log_z = table.read(
            queries, keys=keys, values=values, weights=weights, tau=tau, ids=ids, return_log_z=True
        )
        return reads.sin().double().sum() + log_z.cos().double().sum()

    inputs = [queries, keys, values, weights, tau]
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    for i, x in enumerate(inputs):
        step = 1e-3
        direction = torch.randn_like(x)
        ahead, behind = list(inputs), list(inputs)
        ahead[i], behind[i] = (x.detach() + sign * step * direction for sign in (1, -1))
        slope = (loss(*ahead) - loss(*behind)) / (2 * step)
        assert slope.item() == pytest.approx((gradients[i] * direction).sum().item(), rel=2e-2, abs=2e-2)


def test_only_what_is_wanted_gets_a_gradient():
    queries, keys, values, _ = made(100, 20, 4)
    table = FlatSoftTable(4, 0.5, capacity=200, queries_max=20)
    ids = table.insert(keys, values)
    values = values.requires_grad_()
    reads = table.read(queries, values=values, ids=ids)
    (gradient,) = torch.autograd.grad(reads.sum(), values)
    near(gradient.sum(0), torch.full((4,), 20.0, device="cuda").double(), 20.0)  # each query's shares sum to 1
    assert not table.read(queries).requires_grad


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_history_reads_as_the_trees_does(kernel):
    torch.manual_seed(3)
    table = FlatSoftTable(2, 0.3, kernel=kernel, capacity=600, recent_capacity=64)
    tree = SoftBTree(2, 0.3, kernel=kernel, dtype="float64")
    kept = {}  # of the table's id: the tree's
    for turn in range(30):
        keys, values = torch.randn(50), torch.randn(50, 2)
        if len(kept) > 400:
            table.erase_oldest(100)
            gone = [kept.pop(i) for i in list(kept)[:100]]
            tree.erase([i for i in gone if i is not None])
        theirs = tree.insert(keys, values)
        for a, b in zip(table.insert(keys.cuda(), values.cuda()).tolist(), theirs.tolist()):
            kept[a] = b
        gone = list(kept)[-7::2]
        table.erase(torch.tensor(gone))
        tree.erase([kept[i] for i in gone])
        for i in gone:
            kept[i] = None
        if turn == 20:
            table.set_tau(0.1)
            tree.set_tau(0.1)
        queries = torch.randn(64).clamp(-1, 1)  # where all kernels reach something
        near(table.read(queries.cuda()), torch.from_numpy(tree.read(queries.numpy())).cuda(), 4.0)
        assert len(table) == len(tree)


@pytest.mark.parametrize("n, width", [(2, 1), (17, 2), (1000, 16), (4097, 64)])
@pytest.mark.parametrize("tau", [0.05, 10.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_reads_without_each_entry_are_the_formulas(n, width, tau, kernel):
    _, keys, values, weights = made(n, 1, width)
    keys = (keys / 0.03).round() * 0.03  # many alike
    table = FlatSoftTable(width, tau, kernel=kernel, capacity=n, recent_capacity=n // 3)
    half = n // 2 + 1
    ids = torch.cat([table.insert(keys[a:b], values[a:b], weights[a:b]) for a, b in ((0, half), (half, n))])
    reads, log_z = table.read_without(ids, return_log_z=True)
    assert not reads.requires_grad
    for i in {0, 1, n // 3, half - 1, n - 1}:
        rest = torch.arange(n, device="cuda") != i
        true = dense(keys[i : i + 1].double(), *(x[rest].double() for x in (keys, values, weights)), table.tau, kernel)
        if not true[1].isfinite().all():  # none is in reach
            assert reads[i].isnan().all() and log_z[i].isnan()
        elif kernel != "epanechnikov" or true[1] > -2:  # else only its edge is, where u is a rounded number
            near(reads[i : i + 1], true[0], 10 * values.abs().max())
            near(log_z[i : i + 1], true[1], 10 + true[1].abs().max())


@pytest.mark.parametrize("kernel", KERNELS)
def test_reads_without_each_entry_are_the_trees(kernel):
    torch.manual_seed(5)
    keys, values = torch.rand(400, dtype=torch.float32), torch.randn(400, 2)
    table = FlatSoftTable(2, 0.2, kernel=kernel, capacity=400, recent_capacity=64)
    tree = SoftBTree(2, table.tau, kernel=kernel, dtype="float64")
    ids = torch.cat([table.insert(keys[a : a + 80].cuda(), values[a : a + 80].cuda()) for a in range(0, 400, 80)])
    theirs = tree.insert(keys.double(), values.double())
    table.erase(ids[7::50])
    tree.erase(theirs[7::50])
    left = [i for i in range(400) if i % 50 != 7]
    want = torch.from_numpy(tree.read_without(keys[left].double().numpy(), theirs[left])).cuda()
    near(table.read_without(ids[left]), want, 4.0)
    near(table.read_without(ids[left].reshape(8, 49)).reshape(-1, 2), want, 4.0)  # of any shape
    near(table.read_without(ids[left].tolist()), want, 4.0)  # from anywhere


def test_reads_without_ids_of_no_entry_are_refused():
    table = FlatSoftTable(1, 1.0, kernel="epanechnikov", capacity=8)
    with pytest.raises(ValueError, match="no entries"):
        table.read_without([0])
    table.insert([0.0, 0.5, 9.0], [1.0, 2.0, 3.0])
    reads, log_z = table.read_without([0, 2, 1], return_log_z=True)
    assert reads[[0, 2], 0].tolist() == pytest.approx([2.0, 1.0]) and reads[1].isnan().all() and log_z[1].isnan()
    assert table.read_without([]).shape == (0, 1)
    for bad in ([1, 3], [-1], [1 << 40]):
        with pytest.raises(ValueError, match="1 of the ids are of no entry"):
            table.read_without(bad)
    with pytest.raises(TypeError, match="ids are integers"):
        table.read_without([0.5])
    table.erase([1])
    with pytest.raises(ValueError, match="ids"):
        table.read_without([0, 1])


def test_a_backward_of_a_table_that_has_changed_is_refused():
    queries, keys, values, weights = made(30, 4, 2)
    table = FlatSoftTable(2, 1.0, capacity=40, queries_max=4)
    table.rebuild(keys, values, weights)
    reads = table.read(queries.requires_grad_())
    table.insert(keys[:1], values[:1])
    with pytest.raises(RuntimeError, match="version"):
        reads.sum().backward()


def test_second_derivatives_are_refused_not_zero():
    table = FlatSoftTable(1, 0.3, capacity=8, queries_max=2)
    table.insert([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])
    queries = torch.tensor([0.2, 1.4], device="cuda", requires_grad=True)
    (gradient,) = torch.autograd.grad(table.read(queries).sum(), queries, create_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(table.read(queries).sum(), queries)[0])
    with pytest.raises(RuntimeError, match="FlatSoftTable.read has no second derivatives"):
        (gradient.square().sum() + queries.sum()).backward()


def test_a_query_that_reaches_nothing_reads_nan_and_sends_nothing():
    table = FlatSoftTable(1, 1.0, kernel="epanechnikov", capacity=2, queries_max=2)
    keys, values = torch.tensor([0.0, 0.5], device="cuda"), torch.tensor([[1.0], [2.0]], device="cuda")
    ids = table.insert(keys, values)
    queries, values = torch.tensor([0.25, 9.0], device="cuda", requires_grad=True), values.requires_grad_()
    reads, log_z = table.read(queries, values=values, ids=ids, return_log_z=True)
    assert reads.isnan().flatten().tolist() == [False, True] == log_z.isnan().tolist()
    assert reads[0].item() == pytest.approx(1.5)
    got = torch.autograd.grad(reads.sum(), (queries, values))
    assert got[0].isnan().tolist() == [False, True]
    assert got[1].flatten().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kernel", KERNELS)
def test_twice_is_the_same_bits_on_whichever_stream(kernel):
    queries, keys, values, weights = made(5000, 700, 16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def run():
        table = FlatSoftTable(16, 0.05, kernel=kernel, capacity=5000, queries_max=700)
        ids = table.rebuild(keys, values, weights)
        inputs = [x.clone().requires_grad_() for x in (queries, keys, values, weights)]
        reads = table.read(inputs[0], keys=inputs[1], values=inputs[2], weights=inputs[3], ids=ids)
        return [reads.detach(), *torch.autograd.grad(reads.square().sum(), inputs)]

    here = run()
    with torch.cuda.stream(stream):
        there = run()
    stream.synchronize()
    for a, b in zip(here, there):
        assert torch.equal(a, b)


def test_shapes_dtypes_and_empty_batches():
    _, keys, values, _ = made(20, 1, 1)
    table = FlatSoftTable(1, 1.0, capacity=20)
    assert table.insert(keys.double().cpu(), values[:, 0]).dtype == torch.int64
    queries = torch.randn(3, 5, dtype=torch.float64, device="cuda", requires_grad=True)
    reads, log_z = table.read(queries, return_log_z=True)
    assert reads.shape == (3, 5, 1) and log_z.shape == (3, 5) and reads.dtype == torch.float64
    (gradient,) = torch.autograd.grad(reads.sum() + log_z.sum(), queries)
    assert gradient.shape == queries.shape and gradient.dtype == torch.float64
    none = torch.empty(0, device="cuda", requires_grad=True)
    reads = table.read(none)
    assert reads.shape == (0, 1)
    assert torch.autograd.grad(reads.sum(), none)[0].shape == (0,)
    before = len(table)
    table.erase([])
    assert len(table) == before
    assert table.read(torch.tensor([torch.nan, 0.0], device="cuda")).isnan().tolist() == [[True], [False]]


def test_errors_are_values():
    _, keys, values, weights = made(20, 1, 2)
    table = FlatSoftTable(2, 1.0, capacity=20, queries_max=4)
    with pytest.raises(ValueError, match="no entries"):
        table.read(keys)
    table.insert(keys, values, weights)
    version = table.version
    with pytest.raises(MemoryError, match="capacity|slots"):
        table.insert(keys, values)
    with pytest.raises(ValueError, match="values have the shape"):
        table.insert(keys[:2], values[:3])
    with pytest.raises(ValueError, match="ids are of no entry"):
        table.erase([3, 1 << 40])
    with pytest.raises(TypeError, match="integers"):
        table.erase([0.5])
    with pytest.raises(ValueError, match="ids"):
        table.read(keys, keys=keys)
    with pytest.raises(ValueError, match="queries_max"):
        table.read(keys.clone().requires_grad_())
    with pytest.raises(ValueError, match="tau"):
        table.set_tau(-1)
    with pytest.raises(ValueError):
        table.erase_oldest(21)
    assert table.version == version and len(table) == 20
    table.erase_oldest(20)
    bad = keys.clone()
    bad[3] = torch.inf
    with pytest.raises(ValueError, match="finite"):
        table.insert(bad, values)
    assert len(table) == 0
