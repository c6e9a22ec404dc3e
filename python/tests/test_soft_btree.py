"""tandem.SoftBTree with NumPy, against the dense formula."""

import threading

import numpy as np
import pytest

from tandem import SoftBTree


def dense(queries, keys, values, weights, tau, kernel):
    u = np.abs(queries[:, None].astype(np.float64) - keys[None].astype(np.float64)) / tau
    shape = np.exp(-(u - u.min(1, keepdims=True))) * ((1 + u) if kernel == "matern32" else 1)
    p = weights * shape
    z = p.sum(1)
    return p @ values / z[:, None], np.log(z) - u.min(1), p / z[:, None]


def filled(n, width=3, tau=0.2, kernel="laplace", dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    keys, values, weights = rng.normal(size=n), rng.normal(size=(n, width)), rng.uniform(0.2, 2, n)
    keys[: n // 4] = np.round(keys[: n // 4], 1)  # equal keys
    tree = SoftBTree(width, tau, kernel=kernel, dtype=dtype)
    ids = tree.insert(keys, values, weights)
    return tree, ids, keys, values, weights, rng


@pytest.mark.parametrize("kernel", ["laplace", "matern32"])
@pytest.mark.parametrize("dtype,bound", [("float64", 1e-12), ("float32", 1e-5)])
def test_reads_all_entries(kernel, dtype, bound):
    tree, ids, keys, values, weights, rng = filled(2000, kernel=kernel, dtype=dtype)
    keys, values, weights = (x.astype(dtype).astype(np.float64) for x in (keys, values, weights))
    queries = rng.normal(size=50).astype(dtype)
    reads, log_z = tree.read(queries, return_log_z=True)
    want, want_log_z, p = dense(queries, keys, values, weights, float(np.dtype(dtype).type(0.2)), kernel)
    assert reads.dtype == dtype and len(tree) == 2000
    np.testing.assert_allclose(reads, want, atol=bound * 3)
    np.testing.assert_allclose(log_z, want_log_z, atol=bound * 10)
    chosen = rng.integers(0, 2000, 50)
    np.testing.assert_allclose(tree.log_prob(queries, ids[chosen]), np.log(p[np.arange(50), chosen]), atol=bound * 300)


def test_a_kernel_that_ends():
    rng = np.random.default_rng(5)
    keys, values, queries = rng.uniform(size=3000), rng.normal(size=(3000, 2)), rng.uniform(size=20)
    tree = SoftBTree(2, 0.1, kernel="epanechnikov", dtype="float64")
    tree.insert(keys, values)
    p = np.maximum(0, 1 - np.square((queries[:, None] - keys[None]) / 0.1))
    reads, log_z = tree.read(queries, return_log_z=True)
    np.testing.assert_allclose(reads, p @ values / p.sum(1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(log_z, np.log(p.sum(1)), atol=1e-12)
    with pytest.raises(ValueError, match="query 1; raise tau"):
        tree.read([0.5, 1.2])


def test_changes():
    tree, ids, keys, values, weights, rng = filled(300)
    version = tree.version
    old = tree.snapshot()
    tree.erase(ids[100:])
    assert len(tree) == 100 and len(old) == 300 and tree.version > version
    query = np.array([0.3])
    np.testing.assert_allclose(tree.read(query), dense(query, keys[:100], values[:100], weights[:100], 0.2, "")[0])
    before = np.empty((1, 3))
    old.read(query, before)
    np.testing.assert_allclose(before, dense(query, keys, values, weights, 0.2, "")[0])
    tree.set_keys(ids[:2], [5.0, -5.0])
    tree.set_weight(ids[2], 9.0)
    tree.set_value(ids[3], np.ones(3))
    tree.set_tau(0.5)
    keys[:2], weights[2], values[3] = (5.0, -5.0), 9.0, 1.0
    np.testing.assert_allclose(tree.read(query), dense(query, keys[:100], values[:100], weights[:100], 0.5, "")[0])
    assert tree.oldest == ids[0]


def test_one_entry_and_one_query_may_be_numbers():
    tree = SoftBTree(1, 0.5)
    assert tree.insert(0.5, 2.0).tolist() == [0]
    assert tree.read(0.25).tolist() == [[2.0]]


def test_reads_have_the_shape_of_the_queries():
    tree, _, _, _, _, rng = filled(20)
    queries = rng.standard_normal((2, 3))
    reads, log_z = tree.read(queries, return_log_z=True)
    assert reads.shape == (2, 3, tree.value_width) and log_z.shape == (2, 3)
    np.testing.assert_array_equal(reads[1, 2], tree.read(queries[1, 2])[0])


def test_sampling_follows_the_weights():
    tree, ids, keys, values, weights, rng = filled(20)
    draws = tree.sample(np.full(40000, 0.1), rng)
    p = dense(np.array([0.1]), keys, values, weights, 0.2, "")[2][0]
    counts = np.array([(draws == i).sum() for i in ids])
    keep = p * 40000 > 5
    assert ((counts - p * 40000) ** 2 / (p * 40000))[keep].sum() < keep.sum() + 5 * np.sqrt(2 * keep.sum())


def test_refusals_name_the_argument_and_change_nothing():
    tree, ids, *_ = filled(10)
    with pytest.raises(ValueError, match="key"):
        tree.insert([np.nan], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="weight"):
        tree.insert([0.0], np.zeros((1, 3)), [-1.0])
    with pytest.raises(ValueError):
        tree.insert([0.0], np.zeros((1, 2)))
    with pytest.raises(ValueError, match="values: shape"):
        tree.insert([0.0, 1.0], np.zeros((3, 2)))  # transposed: as many numbers
    with pytest.raises(ValueError, match="tau: for gradients"):
        tree.read([0.0], tau=0.5)
    with pytest.raises(ValueError, match="ids: for gradients"):
        tree.read([0.0], ids=ids)
    with pytest.raises(ValueError, match="tau"):
        tree.set_tau(0.0)
    with pytest.raises(ValueError):
        tree.erase([ids[0], 10_000])
    with pytest.raises(ValueError, match="no entry"):
        SoftBTree(1, 1.0).read([0.0])
    with pytest.raises(ValueError, match="kernel"):
        SoftBTree(1, 1.0, kernel="gauss")
    with pytest.raises(ValueError, match="dtype"):
        SoftBTree(1, 1.0, dtype="int8")
    assert SoftBTree(1, 1.0, dtype=np.float64).dtype == np.float64
    assert len(tree) == 10


def test_readers_beside_a_writer():
    tree, ids, *_ = filled(500)
    snapshot, query = tree.snapshot(), np.linspace(-2, 2, 64)
    want = np.empty((64, 3))
    snapshot.read(query, want)
    wrong = []

    def reader():
        out = np.empty((64, 3))
        for _ in range(200):
            snapshot.read(query, out)
            if not np.array_equal(out, want):
                wrong.append(out.copy())

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(1)
    for _ in range(200):
        tree.erase(tree.insert(rng.normal(size=5), rng.normal(size=(5, 3))))
    for thread in threads:
        thread.join()
    assert not wrong


def test_outputs_are_filled_in_place_or_refused():
    tree, ids, _, _, _, _ = filled(20, width=1, dtype="float32")
    queries, snapshot = np.zeros(4, np.float32), tree.snapshot()
    for out in (np.zeros(4), np.zeros(8, np.float32)[::2], [0.0] * 4):
        with pytest.raises(TypeError):
            snapshot.read(queries, out)
        with pytest.raises(TypeError):
            snapshot.log_prob(queries, ids[:4], out)
        with pytest.raises(TypeError):
            snapshot.backward(queries, queries, None, out, None, None, None, None)
    with pytest.raises(TypeError):
        snapshot.sample(queries, np.zeros(4), np.zeros(4, np.int64))
    with pytest.raises(TypeError):
        tree._core.insert(queries, queries, None, np.zeros(4, np.int64))
    assert len(tree) == 20
    reads = np.zeros(4, np.float32)
    snapshot.read(queries, reads)
    assert reads.any()


def test_an_empty_array_is_not_a_missing_one():
    tree = SoftBTree(1, 1.0)
    with pytest.raises(ValueError, match="weights"):
        tree.insert([1.0, 2.0], [1.0, 2.0], weights=[])
    assert len(tree) == 0 and tree.insert([], [], weights=[]).size == 0
    tree.insert([1.0, 2.0], [1.0, 2.0])
    query = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="d_log_z"):
        tree.snapshot().backward(query, query, np.zeros(0, np.float32), None, None, None, None, None)


def test_ids_are_not_rounded_or_wrapped():
    tree, ids, keys, _, _, _ = filled(20, width=1)
    for bad in ([1.5], [True], ["1"]):
        with pytest.raises(TypeError):
            tree.erase(bad)
    for bad in ([-1], [1 << 32]):
        with pytest.raises(ValueError):
            tree.erase(bad)
    with pytest.raises(TypeError):
        tree.set_weight(1.5, 1.0)
    tree.erase([])
    tree.erase([int(ids[0])])
    assert len(tree) == 19


def test_load_refuses_another_dtype_by_name(tmp_path):
    tree, *_ = filled(20)
    tree.save(tmp_path / "a.tree")
    with pytest.raises(ValueError, match="bad"):
        SoftBTree.load(tmp_path / "a.tree", dtype="bad")
    assert len(SoftBTree.load(tmp_path / "a.tree", dtype="float64")) == 20
