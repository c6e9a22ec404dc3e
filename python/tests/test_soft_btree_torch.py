"""tandem.SoftBTree as PyTorch's autograd sees it."""

import pytest

torch = pytest.importorskip("torch")

from tandem import EpisodicValue, PrioritizedReplay, SoftBTree  # noqa: E402


def written(n=40, width=2, kernel="matern32"):
    torch.manual_seed(0)
    keys = torch.randn(n, dtype=torch.float64, requires_grad=True)
    values = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    weights = (torch.rand(n, dtype=torch.float64) + 0.5).requires_grad_()
    return keys, values, weights


@pytest.mark.parametrize("kernel", ["laplace", "matern32"])
def test_gradcheck(kernel):
    keys, values, weights = written()
    queries = torch.randn(5, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def read(queries, keys, values, weights, tau):
        tree = SoftBTree(2, float(tau.detach()), kernel=kernel, dtype="float64")
        ids = tree.insert(keys, values, weights)
        return tree.read(
            queries, keys=keys, values=values, weights=weights, tau=tau, ids=ids, return_log_z=True
        )

    assert torch.autograd.gradcheck(read, (queries, keys, values, weights, tau), eps=1e-7, atol=1e-5)


def test_the_backward_is_of_the_tree_as_it_was_read():
    keys, values, weights = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    ids = tree.insert(keys, values, weights)
    queries = torch.linspace(-1, 1, 7, dtype=torch.float64)
    reads = tree.read(queries, keys=keys, values=values, ids=ids)
    want = torch.autograd.grad(reads.sum(), (keys, values), retain_graph=True)
    tree.erase(ids[:20])
    tree.insert([0.0], [[100.0, 100.0]])
    for a, b in zip(torch.autograd.grad(reads.sum(), (keys, values)), want):
        assert torch.equal(a, b)


def test_ids_must_be_named():
    keys, values, _ = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    tree.insert(keys, values)
    with pytest.raises(ValueError, match="ids"):
        tree.read(torch.zeros(1, dtype=torch.float64), keys=keys)


def test_what_gets_gradients_must_fit_the_tree():
    keys, values, weights = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    ids = tree.insert(keys, values, weights)
    query = torch.zeros(1, dtype=torch.float64)
    for name, given in {"keys": keys[:3], "values": values[:, :1], "weights": weights[1:]}.items():
        with pytest.raises(ValueError, match=f"{name}: shape .* ids"):
            tree.read(query, ids=ids, **{name: given})
    with pytest.raises(ValueError, match="tau: 0.5 where the tree's is 0.4"):
        tree.read(query, tau=torch.tensor(0.5))
    tree.read(query, tau=torch.tensor(0.4))  # f32, and near enough


def test_ids_that_never_were_are_refused():
    keys, values, weights = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    ids = tree.insert(keys, values, weights)
    with pytest.raises(ValueError, match="never an entry 40"):
        tree.read(torch.zeros(1, dtype=torch.float64), keys=keys, ids=ids + 1)


def test_queries_that_are_integers_read_floats():
    tree = SoftBTree(1, 0.3)
    tree.insert([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])
    reads, log_z = tree.read(torch.tensor([0, 1, 2]), return_log_z=True)
    expected = tree.read(torch.tensor([0.0, 1.0, 2.0]), return_log_z=True)
    assert torch.equal(reads, expected[0]) and torch.equal(log_z, expected[1])


def test_memories_take_tensors_of_any_kind():
    states = torch.randn(6, 2, requires_grad=True)
    values = EpisodicValue(torch.ones(2, requires_grad=True), 8)
    ids = values.add(states, torch.ones(6, dtype=torch.bfloat16, requires_grad=True))
    assert values.values(states).tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    assert values.advantages(torch.as_tensor(ids)).tolist() == pytest.approx([0.0] * 6, abs=1e-6)
    replay = PrioritizedReplay(8)
    slots, _ = replay.add(torch.ones(6, requires_grad=True))
    replay.update(slots, torch.full((6,), 2.0, dtype=torch.bfloat16))
    tree = SoftBTree(1)
    tree.insert(torch.zeros(1, dtype=torch.bfloat16), torch.ones(1))
    with pytest.raises(ValueError, match="tau: requires a gradient"):
        tree.set_tau(torch.tensor(0.5, requires_grad=True))


def test_second_derivatives_and_torch_func_are_refused_not_zero():
    tree = SoftBTree(1, 0.3, dtype="float64")
    tree.insert([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])
    queries = torch.tensor([0.2, 1.4], dtype=torch.float64, requires_grad=True)
    reads = tree.read(queries)
    (gradient,) = torch.autograd.grad(reads.sum(), queries, create_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(tree.read(queries).sum(), queries)[0])
    with pytest.raises(RuntimeError, match="no second derivatives"):
        (gradient.square().sum() + queries.sum()).backward()
    with pytest.raises(RuntimeError, match="torch.func has no part"):
        torch.func.grad(lambda x: tree.read(x).sum())(queries.detach())


def test_what_lies_beside_the_queries_may_be_lists_and_numbers():
    keys, values, _ = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    ids = tree.insert(keys, values)
    queries = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    reads = tree.read(queries, keys=keys.tolist(), values=values.detach().numpy(), tau=0.4, ids=ids)
    assert torch.equal(reads, tree.read(queries))
    with pytest.raises(ValueError, match="tau: 0.5 where"):
        tree.read(queries, tau=0.5)


def test_a_compiled_function_reads():
    keys, values, _ = written()
    tree = SoftBTree(2, 0.4, dtype="float64")
    ids = tree.insert(keys, values)

    def loss(queries):
        return tree.read(queries * 2, keys=keys, values=values, ids=ids).square().sum()

    queries = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager")
    for a, b in zip(*(torch.autograd.grad(call(queries), (queries, keys, values)) for call in (compiled, loss))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
