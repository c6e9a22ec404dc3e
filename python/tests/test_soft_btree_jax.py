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
    for a, b in zip(got, jax.grad(loss(dense), argnums=(0, 1, 2, 3))(*inputs)):
        np.testing.assert_allclose(a, b, atol=2e-4)
