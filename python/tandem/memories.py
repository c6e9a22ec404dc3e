"""Memories for reinforcement learning, NumPy arrays in and out: what they compute is in C++, without the GIL.

    PrioritizedReplay   slots drawn in proportion to their priorities, by sums that cannot drift
    EpisodicValue       V(state) as the soft read of past returns along a learned axis: a baseline without a critic
    Curriculum          prompts drawn where the policy passes about half of the time

Each is saved and loaded exactly: what is loaded goes on as what was saved would have; so does a copy by pickle or
copy.deepcopy, which are the same bytes. save() leaves the old file or the new one behind, whatever happens; a file that
is damaged is refused with a RuntimeError that names it. Any thread may call; they take turns. Where one element of an array is refused, nothing is done if the docstring does not say otherwise.
"""

import os
from typing import NamedTuple

import numpy as np

from . import _core
from ._arrays import array_of, ids_of, uniforms
from ._numbers import real_number, whole_number


class _Memory:
    def __len__(self):
        return len(self._core)

    def save(self, path):
        """The whole of it, in one file, atomically."""
        self._core.save(os.fsdecode(path))

    @classmethod
    def load(cls, path):
        """What save() wrote. RuntimeError: the file is damaged, or of something else."""
        made = cls.__new__(cls)
        made._core = cls._CORE.load(os.fsdecode(path))
        return made


def _like(x, out):
    """One element for a scalar, an array for an array."""
    return out[0].item() if np.ndim(x) == 0 else out


def _ids(x):
    return np.atleast_1d(ids_of(x))


def _spread(name, x, like, dtype):
    x = array_of(name, x, dtype)
    try:
        return np.ascontiguousarray(np.broadcast_to(x, like.shape))
    except ValueError:
        raise ValueError(f"{name}: shape {x.shape}; expected {like.shape}, or one number for all") from None


class PrioritizedReplay(_Memory):
    """Proportional prioritized replay (arXiv:1511.05952): slot i is drawn with probability p_i^alpha / sum_j p_j^alpha.

    It hands out slots 0 .. capacity - 1; what lies in a slot is yours, in arrays of your own.

    capacity   how many slots
    alpha      0 (all alike) to 1 (in proportion to the priority)
    eviction   who leaves when it is full: "oldest", or "lowest" (the lowest priority; changes cost more)
    """

    _CORE = _core.PrioritizedReplay

    def __init__(self, capacity, alpha=0.6, *, eviction="oldest"):
        self._core = _core.PrioritizedReplay(
            whole_number("capacity", capacity), real_number("alpha", alpha), str(eviction)
        )

    @property
    def capacity(self):
        """How many slots there are."""
        return self._core.capacity

    @property
    def mass(self):
        """The sum of p^alpha."""
        return self._core.mass

    @property
    def priority_max(self):
        """The greatest priority ever given, at least 1: what the paper gives to new entries."""
        return self._core.priority_max

    def probability(self, slots):
        """How likely each slot is to be drawn; 0 for one that holds nothing."""
        ids = _ids(slots)
        out = np.empty(ids.size)
        self._core.probability(ids, out)
        return _like(slots, out)

    def add(self, priorities):
        """Slots for new entries, and whether each held something until now: (slots, evicted).

        A scalar gives scalars. A priority of 0 is never drawn: add a small constant to an error that may vanish."""
        values = array_of("priorities", priorities, np.float32)
        if not np.all((values >= 0) & np.isfinite(values)):
            raise ValueError("add: priorities must be finite and at least 0")
        slots, evicted = np.empty(values.size, np.uint32), np.empty(values.size, bool)
        self._core.add(values, slots, evicted)
        return _like(priorities, slots), _like(priorities, evicted)

    def update(self, slots, priorities):
        """New priorities. Slots may repeat: the last one counts."""
        slots = _ids(slots)
        self._core.update(slots, _spread("priorities", priorities, slots, np.float32))

    def sample(self, count, rng=None):
        """slots [count], stratified: one from each of `count` equal parts of the mass. rng: a numpy Generator."""
        parts = uniforms(rng, count)
        slots = np.empty(parts.size, np.uint32)
        self._core.sample(parts, slots)
        return slots

    def importance_weights(self, slots, beta):
        """(n P(slot))^-beta, divided by the greatest of them: in (0, 1]."""
        slots = _ids(slots)
        weights = np.empty(slots.size, np.float32)
        self._core.importance_weights(slots, real_number("beta", beta), weights)
        return weights


class SquaredError(NamedTuple):
    loss: float  # sum (V(states) - returns)^2 / 2 m
    d_projection: np.ndarray  # [S]
    d_tau: float


class EpisodicValue(_Memory):
    """V(state) = the soft read, at the key <projection, state>, of the returns of past episodes.

    A return counts at once. What is learned is where to look: projection and tau, by the gradients of squared_error()
    for episodes that are not in the memory yet; so learn first, and add() after.

    projection   [S]
    capacity     entries; the oldest leaves when it is full
    tau          temperature, in units of keys
    kernel       as SoftBTree's
    """

    _CORE = _core.EpisodicValue

    def __init__(self, projection, capacity, tau=1.0, *, kernel="laplace"):
        projection = array_of("projection", projection, np.float32)
        self._core = _core.EpisodicValue(
            projection, whole_number("capacity", capacity), real_number("tau", tau), str(kernel)
        )

    @property
    def projection(self):
        """[S], a copy. To set it moves all keys."""
        return np.array(self._core.projection, np.float32)

    @projection.setter
    def projection(self, projection):
        self._core.set_projection(array_of("projection", projection, np.float32))

    @property
    def tau(self):
        """To set it makes every sum anew."""
        return self._core.tau

    @tau.setter
    def tau(self, tau):
        self._core.set_tau(real_number("tau", tau))

    def add(self, states, returns):
        """states [m,S], returns [m] -> ids [m]; or one state [S] and a number -> one id.

        Where one of them is refused, those before it have been added."""
        values = array_of("returns", returns, np.float32)
        ids = np.empty(values.size, np.uint32)
        self._core.add(self._states(states), values, ids)
        return _like(returns, ids)

    def values(self, states):
        """V of states [m,S] -> [m]; of one state [S] -> a number."""
        states = self._states(states)
        out = np.empty(states.size // states.shape[-1], np.float32)
        self._core.values(states, out)
        return out if states.ndim > 1 else out[0].item()

    def advantages(self, ids):
        """The returns of entries `ids`, each less what the others say of its state: an unbiased baseline."""
        entries = _ids(ids)
        out = np.empty(entries.size, np.float32)
        self._core.advantages(entries, out)
        return _like(ids, out)

    def squared_error(self, states, returns):
        """SquaredError of states [m,S] and returns [m] that are not in the memory: its loss and gradients."""
        d_projection = np.empty(len(self._core.projection), np.float32)
        loss, d_tau = self._core.squared_error(self._states(states), array_of("returns", returns, np.float32), d_projection)
        return SquaredError(loss, d_projection, d_tau)

    def _states(self, states):
        # The core counts elements; a transposed array has as many.
        states, width = array_of("states", states, np.float32), len(self._core.projection)
        if states.size == 0:
            return states.reshape(0, width)
        if states.shape[-1] != width:
            raise ValueError(f"states: shape {states.shape}; expected [m, {width}], or [{width}] for one")
        return states


class Curriculum(_Memory):
    """Prompts, drawn where they teach most: near the pass rate `target`.

    Prompt i is drawn with probability proportional to weight_i e^(-|target - rate_i| / tau). Its rate is the mean of a
    Beta distribution over what was seen of it, older attempts counting less (MoPPS, arXiv:2507.04632), or what a model
    of yours says (set_rate).

    target           the pass rate that teaches most, in (0, 1)
    tau              how far from it prompts are still drawn
    prior_attempts   what a new prompt's rate is worth, in attempts
    memory           what is left of earlier attempts when new ones come in, in (0, 1]
    """

    _CORE = _core.Curriculum

    def __init__(self, target=0.5, tau=0.1, *, prior_attempts=2.0, memory=0.9):
        self._core = _core.Curriculum(
            real_number("target", target),
            real_number("tau", tau),
            real_number("prior_attempts", prior_attempts),
            real_number("memory", memory),
        )

    def add(self, rates=0.5, weights=1.0):
        """Prompts not tried yet, with the rates expected of them -> their ids. Weight 2: drawn twice as often.

        Where one of them is refused, those before it have been added."""
        values = array_of("rates", rates, np.float64)
        prompts = np.empty(values.size, np.uint32)
        self._core.add(values, _spread("weights", weights, values, np.float64), prompts)
        return _like(rates, prompts)

    def remove(self, prompts):
        """Where one of them is refused, those before it are gone."""
        self._core.remove(_ids(prompts))

    def observe(self, prompts, passes, attempts):
        """`attempts` answers to each prompt, `passes` of which passed.

        Where one of them is refused, those before it have counted."""
        prompts = _ids(prompts)
        passes = _spread("passes", passes, prompts, np.float64)
        self._core.observe(prompts, passes, _spread("attempts", attempts, prompts, np.float64))

    def set_rate(self, prompts, rates):
        """Another prediction instead; later observations start from it, with the prior's worth.

        Where one of them is refused, those before it have been set."""
        prompts = _ids(prompts)
        self._core.set_rate(prompts, _spread("rates", rates, prompts, np.float64))

    def rate(self, prompts):
        """The predicted pass rates."""
        ids = _ids(prompts)
        out = np.empty(ids.size)
        self._core.rate(ids, out)
        return _like(prompts, out)

    def sample(self, count, *, seed, stream=0, first=0):
        """prompts [count], with replacement; prompts[j] is a function of (seed, stream, first + j) and of the rates."""
        prompts = np.empty(whole_number("count", count, 0), np.uint32)
        words = {"seed": seed, "stream": stream, "first": first}
        self._core.sample(*(whole_number(name, word, 0, 2**64 - 1) for name, word in words.items()), prompts)
        return prompts
