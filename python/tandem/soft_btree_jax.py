"""SoftBTree reads inside JAX programs: a jax.custom_vjp around a callback to the tree.

    read = reader(tree, ids)                   # the tree as it is now
    read(queries, keys, values, weights)       # [m, D]; jax.grad, jax.jit and jax.vmap see all four arguments
"""

import jax
import numpy as np

from ._arrays import known_ids


def reader(tree, ids):
    """A function of (queries [m], keys [n], values [n,D], weights [n]), the last three those that `ids` were inserted
    from, which reads a snapshot of the tree: new keys, values or weights take a new reader."""
    snapshot = tree.snapshot()
    ids = known_ids(ids, snapshot.ids_end)
    width, dtype = tree.value_width, tree.dtype

    def read_on_host(queries):  # of any shape: vmap gives it all at once
        queries = np.asarray(queries, dtype, order="C")
        reads = np.empty((*queries.shape, width), dtype)
        snapshot.read(queries, reads)
        return reads

    def backward_on_host(queries, d_reads):
        queries, d_reads = (np.ascontiguousarray(x, dtype) for x in (queries, d_reads))
        entries = snapshot.ids_end
        made = [np.zeros(shape, dtype) for shape in ((queries.size,), (entries,), (entries, width), (entries,))]
        snapshot.backward(queries, d_reads, None, *made, None)
        return (made[0], *(gradient[ids] for gradient in made[1:]))

    @jax.custom_vjp
    def read(queries, keys, values, weights):
        shape = jax.ShapeDtypeStruct((queries.size, width), dtype)
        return jax.pure_callback(read_on_host, shape, queries, vmap_method="broadcast_all")

    def forward(queries, keys, values, weights):
        return read(queries, keys, values, weights), queries

    def backward(queries, d_reads):
        shapes = ((queries.size,), (ids.size,), (ids.size, width), (ids.size,))
        made = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        return jax.pure_callback(backward_on_host, tuple(made), queries, d_reads, vmap_method="sequential")

    read.defvjp(forward, backward)

    def checked_read(queries, keys, values, weights):
        expected = ((np.size(queries),), (ids.size,), (ids.size, width), (ids.size,))
        for name, x, shape in zip(("queries", "keys", "values", "weights"), (queries, keys, values, weights), expected):
            if np.shape(x) != shape:
                raise ValueError(f"{name}: the shape is {np.shape(x)}; expected {shape}")
        # As the tree's dtype, so that gradients come back in that of what was given.
        return read(*(jax.numpy.asarray(x, dtype) for x in (queries, keys, values, weights)))

    return checked_read
