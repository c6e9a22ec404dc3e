"""tandem.SoftBTree inside JAX programs."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from tandem import SoftBTree  # noqa: E402
from tandem.soft_btree_jax import reader  # noqa: E402


def test_gradients_reach_all_arguments():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=30).astype(np.float32), rng.normal(size=(30, 2)).astype(np.float32)
    weights, queries = np.ones(30, np.float32), rng.normal(size=6).astype(np.float32)
    tree = SoftBTree(2, 0.5)
    read = reader(tree, tree.insert(keys, values, weights))

    def dense(queries, keys, values, weights):
        p = weights * jax.numpy.exp(-jax.numpy.abs(queries[:, None] - keys) / 0.5)
        return p @ values / p.sum(1, keepdims=True)

    def loss(of):
        return lambda *inputs: (of(*inputs) ** 2).sum()

    inputs = (queries, keys, values, weights)
    got = jax.jit(jax.grad(loss(read), argnums=(0, 1, 2, 3)))(*inputs)
    with jax.default_matmul_precision("highest"):  # on a GPU the formula would be multiplied in TF32
        want = jax.grad(loss(dense), argnums=(0, 1, 2, 3))(*inputs)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_vmap_reads_and_differentiates_each():
    rng = np.random.default_rng(1)
    keys, values = rng.normal(size=20).astype(np.float32), rng.normal(size=(20, 2)).astype(np.float32)
    weights, queries = np.ones(20, np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    tree = SoftBTree(2, 0.5)
    read = reader(tree, tree.insert(keys, values, weights))
    got = jax.vmap(lambda q: read(q, keys, values, weights))(queries)
    np.testing.assert_array_equal(got, [read(q, keys, values, weights) for q in queries])

    def of_each(q, keys):
        return jax.grad(lambda q, keys: (read(q, keys, values, weights) ** 2).sum(), argnums=(0, 1))(q, keys)

    for a, b in zip(jax.jit(jax.vmap(of_each, (0, None)))(queries, keys), zip(*(of_each(q, keys) for q in queries))):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_gradients_have_the_dtype_of_what_was_given():
    tree = SoftBTree(1, 0.5)
    read = reader(tree, tree.insert([0.0, 1.0], [1.0, 2.0]))
    keys = jax.numpy.array([0.0, 1.0], jax.numpy.bfloat16)
    inputs = [0.5], keys, [[1.0], [2.0]], [1.0, 1.0]  # lists are arrays too
    gradient = jax.grad(lambda keys: read(inputs[0], keys, *inputs[2:]).sum())(keys)
    assert gradient.dtype == keys.dtype and read(*inputs).shape == (1, 1)


def test_shapes_and_ids_that_do_not_fit_are_refused_by_name():
    tree = SoftBTree(1, 0.5)
    ids = tree.insert([0.0, 1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="never an entry 2"):
        reader(tree, ids + 1)
    fits = dict(queries=np.zeros(3), keys=np.zeros(2), values=np.zeros((2, 1)), weights=np.ones(2))
    assert reader(tree, ids)(*(x.astype(np.float32) for x in fits.values())).shape == (3, 1)
    for name, wrong in dict(queries=(2, 3), keys=(3,), values=(2,), weights=()).items():
        with pytest.raises(ValueError, match=f"{name}: the shape is"):
            reader(tree, ids)(**{**fits, name: np.zeros(wrong)})
