"""The memories with NumPy: what they compute against the plain formulas, saving, and refusals."""

import copy
import pickle
import threading

import numpy as np
import pytest

from tandem import Curriculum, EpisodicValue, PrioritizedReplay, SoftBTree


def test_replay_draws_in_proportion_to_priorities():
    rng = np.random.default_rng(0)
    replay = PrioritizedReplay(64, alpha=0.7)
    priorities = rng.uniform(0, 4, 50).astype(np.float32)
    slots, evicted = replay.add(priorities)
    assert slots.tolist() == list(range(50)) and not evicted.any() and len(replay) == 50 and replay.capacity == 64
    replay.update([3, 7], [9.0, 0.0])
    priorities[[3, 7]] = 9, 0
    mass = priorities.astype(np.float64) ** 0.7
    np.testing.assert_allclose(replay.mass, mass.sum(), rtol=1e-6)
    np.testing.assert_allclose(replay.probability(slots), mass / mass.sum(), rtol=1e-6)
    assert replay.priority_max == 9 and replay.probability(63) == 0
    drawn = np.concatenate([replay.sample(500, rng) for _ in range(40)])
    counts = np.bincount(drawn, minlength=50)
    assert counts[7] == 0
    np.testing.assert_allclose(counts, mass / mass.sum() * 20000, atol=60)
    weights = replay.importance_weights(drawn[:100], 0.5)
    want = mass[drawn[:100]] ** -0.5
    np.testing.assert_allclose(weights, want / want.max(), rtol=1e-5)


def test_replay_evicts():
    replay = PrioritizedReplay(3, 1.0, eviction="lowest")
    replay.add([2.0, 1.0, 3.0])
    assert replay.add(5.0) == (1, True)
    assert replay.add(0.5) == (0, True)
    assert len(replay) == 3
    assert PrioritizedReplay(3).add(1) == (0, False)


def test_episodic_value_reads_the_dense_formula():
    rng = np.random.default_rng(1)
    projection = rng.normal(size=3).astype(np.float32)
    memory = EpisodicValue(projection, capacity=80, tau=0.4)
    states, returns = rng.normal(size=(100, 3)).astype(np.float32), rng.normal(size=100).astype(np.float32)
    ids = memory.add(states, returns)
    assert len(memory) == 80
    states, returns, ids = states[20:], returns[20:], ids[20:]
    np.testing.assert_array_equal(memory.projection, projection)

    def dense(asked, projection, tau, leave_out=False):
        u = np.abs((asked @ projection)[:, None] - (states @ projection)[None]) / tau
        if leave_out:
            np.fill_diagonal(u, np.inf)
        p = np.exp(u.min(1, keepdims=True) - u)
        return p @ returns / p.sum(1)

    asked, wanted = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    np.testing.assert_allclose(memory.values(asked), dense(asked, projection, 0.4), atol=2e-5)
    np.testing.assert_allclose(memory.values(asked[0]), memory.values(asked)[0])
    np.testing.assert_allclose(memory.advantages(ids), returns - dense(states, projection, 0.4, True), atol=5e-5)
    for call in (lambda x: memory.add(x, x[0]), memory.values, lambda x: memory.squared_error(x, x[0])):
        with pytest.raises(ValueError, match="states: shape"):
            call(np.zeros((3, 4)))  # transposed: as many numbers
    with pytest.raises(ValueError, match="states: shape"):
        memory.values(np.zeros(6))  # two states are not one
    assert memory.values([]).size == 0 and memory.add([], []).size == 0
    error = memory.squared_error(asked, wanted)

    def loss(projection, tau):
        return np.square(dense(asked.astype(np.float64), projection, tau) - wanted).sum() / 14

    np.testing.assert_allclose(error.loss, loss(projection, 0.4), rtol=1e-4)
    exact, step = projection.astype(np.float64), 1e-6
    for i in range(3):
        up, down = exact.copy(), exact.copy()
        up[i] += step
        down[i] -= step
        np.testing.assert_allclose(error.d_projection[i], (loss(up, 0.4) - loss(down, 0.4)) / (2 * step), atol=2e-3)
    slope = (loss(exact, 0.4 + step) - loss(exact, 0.4 - step)) / (2 * step)
    np.testing.assert_allclose(error.d_tau, slope, atol=2e-3)
    memory.projection, memory.tau = -projection, 0.2
    np.testing.assert_allclose(memory.values(asked), dense(asked, projection, 0.2), atol=2e-5)
    assert isinstance(memory.add(states[0], 1.0), int)


def test_curriculum_draws_near_the_target():
    curriculum = Curriculum(target=0.5, tau=0.1)
    rates, weights = np.array([0.0, 0.3, 0.5, 0.62]), np.array([1.0, 1.0, 2.0, 1.0])
    prompts = curriculum.add(rates, weights)
    p = weights * np.exp(-np.abs(0.5 - rates) / 0.1)
    drawn = curriculum.sample(20000, seed=3)
    counts = np.bincount(drawn, minlength=4)
    np.testing.assert_allclose(counts, p / p.sum() * 20000, atol=400)
    np.testing.assert_array_equal(curriculum.sample(10, seed=3, first=90), drawn[90:100])
    assert curriculum.add() == 4 and curriculum.rate(4) == 0.5
    curriculum.observe(4, 4, 4)
    np.testing.assert_allclose(curriculum.rate(4), (0.9 * 1 + 4) / (0.9 * 2 + 4))
    curriculum.set_rate(prompts[:2], [0.2, 0.9])
    np.testing.assert_allclose(curriculum.rate(prompts), [0.2, 0.9, 0.5, 0.62])
    curriculum.remove(prompts[:2])
    assert len(curriculum) == 3 and not np.isin(curriculum.sample(500, seed=1), prompts[:2]).any()


def test_saved_memories_go_on(tmp_path):
    rng = np.random.default_rng(2)
    replay = PrioritizedReplay(40, eviction="lowest")
    values = EpisodicValue([1.0, 2.0], 40)
    curriculum = Curriculum()
    replay.add(rng.random(60))
    values.add(rng.normal(size=(60, 2)), rng.normal(size=60))
    curriculum.add(rng.random(30))
    for name, memory in {"replay": replay, "values": values, "curriculum": curriculum}.items():
        memory.save(tmp_path / name)
    loaded = PrioritizedReplay.load(tmp_path / "replay")
    assert loaded.add(3.0) == replay.add(3.0)
    np.testing.assert_array_equal(*(m.sample(50, np.random.default_rng(4)) for m in (replay, loaded)))
    loaded = EpisodicValue.load(tmp_path / "values")
    assert loaded.add([1.0, 1.0], 2.0) == values.add([1.0, 1.0], 2.0)
    asked = rng.normal(size=(9, 2))
    np.testing.assert_array_equal(loaded.values(asked), values.values(asked))
    loaded = Curriculum.load(tmp_path / "curriculum")
    np.testing.assert_array_equal(loaded.sample(50, seed=1), curriculum.sample(50, seed=1))
    with pytest.raises(RuntimeError, match="replay.*damaged"):
        Curriculum.load(tmp_path / "replay")
    (tmp_path / "replay").write_bytes((tmp_path / "replay").read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="checksum"):
        PrioritizedReplay.load(tmp_path / "replay")
    with pytest.raises(ValueError, match="nowhere"):
        PrioritizedReplay.load(tmp_path / "nowhere")


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_copies_go_on_as_what_they_are_of(copied):
    rng = np.random.default_rng(5)
    replay, values, curriculum = PrioritizedReplay(40), EpisodicValue([1.0, 2.0], 40), Curriculum()
    tree = SoftBTree(2, 0.3, dtype="float64")
    replay.add(rng.random(60))
    values.add(rng.normal(size=(60, 2)), rng.normal(size=60))
    curriculum.add(rng.random(30))
    tree.erase(tree.insert(rng.normal(size=50), rng.normal(size=(50, 2)))[10:20])

    def goes_on(replay, values, curriculum, tree):
        rng = np.random.default_rng(6)
        slots = replay.sample(20, rng)
        replay.update(slots, rng.random(20))
        ids = tree.insert(rng.normal(size=15), rng.normal(size=(15, 2)))
        return [
            *(slots, replay.sample(20, rng), values.add(rng.normal(size=(5, 2)), np.ones(5))),
            *(values.values(rng.normal(size=(9, 2))), curriculum.sample(50, seed=1), ids, tree.read(rng.random(20))),
        ]

    copies = copied([replay, values, curriculum, tree])
    assert [len(x) for x in copies] == [40, 40, 30, 40]
    for a, b in zip(goes_on(replay, values, curriculum, tree), goes_on(*copies)):
        np.testing.assert_array_equal(a, b)


def test_a_tree_that_cannot_be_saved_is_not_copied_either(tmp_path):
    tree = SoftBTree(1, 1.0)
    tree.insert(0.0, 3e38)
    tree.sgd_values(0.0, [-1e38], 1.0)
    for call in (lambda: tree.save(tmp_path / "tree"), lambda: pickle.dumps(tree), lambda: copy.deepcopy(tree)):
        with pytest.raises(ValueError, match="infinite"):
            call()


def test_saved_trees_read_with_the_same_bits(tmp_path):
    rng = np.random.default_rng(3)
    tree = SoftBTree(2, 0.3, dtype="float64")
    tree.insert(rng.normal(size=500), rng.normal(size=(500, 2)))
    tree.save(bytes(tmp_path / "tree"))
    loaded = SoftBTree.load(tmp_path / "tree", dtype="float64")
    queries = rng.normal(size=20)
    np.testing.assert_array_equal(loaded.read(queries), tree.read(queries))
    assert loaded.value_width == 2 and len(loaded) == 500
    with pytest.raises(ValueError, match="bytes a number"):
        SoftBTree.load(tmp_path / "tree")


def test_refusals_name_what_is_wrong():
    with pytest.raises(ValueError, match="capacity"):
        PrioritizedReplay(0)
    with pytest.raises(ValueError, match="eviction"):
        PrioritizedReplay(5, eviction="youngest")
    replay = PrioritizedReplay(5)
    with pytest.raises(ValueError, match="priorit"):
        replay.add([1.0, -1.0])
    assert len(replay) == 0
    with pytest.raises(ValueError, match="priority"):
        replay.sample(3)
    with pytest.raises(ValueError, match="holds nothing"):
        replay.update([0], [1.0])
    with pytest.raises(ValueError, match="kernel"):
        EpisodicValue([1.0], 5, kernel="gauss")
    memory = EpisodicValue([1.0, 1.0], 5)
    with pytest.raises(ValueError):
        memory.add([1.0], 1.0)
    with pytest.raises(ValueError, match="elements"):
        memory.add([[1.0, 1.0], [2.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="add.. past states"):
        memory.values([[1.0, 1.0]])
    with pytest.raises(ValueError, match="add.. past states"):
        memory.squared_error([[1.0, 1.0]], [1.0])
    with pytest.raises(ValueError, match="target"):
        Curriculum(target=1.5)
    curriculum = Curriculum()
    with pytest.raises(ValueError, match="no prompt"):
        curriculum.sample(1, seed=0)
    with pytest.raises(ValueError, match="no prompt 3"):
        curriculum.observe(3, 1, 1)
    with pytest.raises(ValueError, match="rate"):
        curriculum.add(1.5)


def test_threads_take_turns():
    replay = PrioritizedReplay(1000)
    replay.add(np.ones(1000))
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            slots = replay.sample(32, rng)
            replay.update(slots, rng.random(32) + 0.1)
            if not np.all(replay.importance_weights(slots, 0.4) <= 1):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    np.testing.assert_allclose(replay.mass, (replay.probability(np.arange(1000)) * replay.mass).sum())


def test_slots_and_outputs_are_what_they_say():
    replay = PrioritizedReplay(8)
    replay.add([1.0, 2.0])
    with pytest.raises(TypeError):
        replay.update([0.5], [1.0])
    with pytest.raises(ValueError):
        replay.update([(1 << 32) + 1], [1.0])
    with pytest.raises(TypeError):
        replay._core.sample(np.zeros(2), np.zeros(2, np.int64))
    with pytest.raises(TypeError):
        replay._core.probability(np.zeros(2, np.uint32), np.zeros(4)[::2])
    curriculum = Curriculum()
    curriculum.add([0.2, 0.4])
    with pytest.raises(ValueError):
        curriculum.rate([-1])


def test_no_arguments_pass_unnoticed():
    """What is not what it should be is named, and nothing is guessed: in words, never the core's list of overloads."""
    replay, values, curriculum, tree = PrioritizedReplay(8), EpisodicValue([1.0, 1.0], 8), Curriculum(), SoftBTree(1)
    replay.add(np.ones(3))
    values.add(np.ones((3, 2)), np.ones(3))
    curriculum.add(np.full(3, 0.5))
    tree.insert([0.0, 1.0], [1.0, 2.0])
    hidden = np.ma.masked_array([1.0, 2.0], [True, False])
    calls = {
        "capacity: 1.5 where a whole": lambda: PrioritizedReplay(1.5),
        "capacity: 'a' where a whole": lambda: EpisodicValue([1.0], "a"),
        "capacity: .*; expected": lambda: PrioritizedReplay(2**70),
        "value_width: 1.5": lambda: SoftBTree(1.5),
        "value_width: 10000000000; expected": lambda: SoftBTree(10**10),
        "alpha: 'a' where a number": lambda: PrioritizedReplay(4, "a"),
        "tau: None where a number": lambda: SoftBTree(1, None),
        "kernel 'None'": lambda: SoftBTree(1, 1.0, kernel=None),
        "eviction 'None'": lambda: PrioritizedReplay(4, eviction=None),
        "dtype None": lambda: SoftBTree(1, dtype=None),
        "target: 'a' where a number": lambda: Curriculum("a"),
        "seed: 1.5": lambda: curriculum.sample(2, seed=1.5),
        "seed: -1; expected 0": lambda: curriculum.sample(2, seed=-1),
        "first: -1; expected 0": lambda: curriculum.sample(2, seed=1, first=-1),
        "count: -1; expected 0": lambda: curriculum.sample(-1, seed=1),
        "count: 1.5": lambda: replay.sample(1.5),
        "rng: 0 is no generator": lambda: replay.sample(2, 0),
        "rng: 3 is no generator": lambda: tree.sample([0.0], 3),
        "beta: 'a'": lambda: replay.importance_weights([0], "a"),
        "priorities: shape .3,.; expected .2,.": lambda: replay.update([0, 1], [1.0, 2.0, 3.0]),
        "attempts: shape": lambda: curriculum.observe([0, 1], 1, [1, 2, 3]),
        "priorities: a masked array": lambda: replay.add(hidden),
        "keys: a masked array": lambda: tree.insert(hidden, [1.0, 2.0]),
        "queries: a masked array": lambda: tree.read(hidden),
        "keys: expected numbers; got complex": lambda: tree.insert(np.array([1j]), [1.0]),
        "values: expected numbers; got object": lambda: tree.insert([0.0], None),
        "states: expected numbers; got <U1": lambda: values.values("a"),
        "ids are from 0": lambda: tree.set_value(-1, [1.0]),
        "ids are integers": lambda: tree.set_weight("a", 1.0),
    }
    for message, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    assert (len(replay), len(values), len(curriculum), len(tree)) == (3, 3, 3, 2)
    assert PrioritizedReplay(1e6).capacity == 1_000_000 and SoftBTree(1, dtype="f8").dtype == np.float64
