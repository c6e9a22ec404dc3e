"""tandem.FlatSoftTable's arguments, on a machine with or without a GPU."""

import pytest

pytest.importorskip("numpy")

import tandem
from tandem import FlatSoftTable, _core


@pytest.mark.parametrize(
    "options, words",
    [
        ({"value_width": 0}, "value_width"),
        ({"value_width": 257}, "value_width"),
        ({"tau": 0.0}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"tau": 1e-40}, "tau"),
        ({"capacity": 0}, "capacities"),
        ({"recent_capacity": -1}, "capacities"),
        ({"queries_max": 1 << 40}, "capacities"),
        ({"kernel": "gaussian"}, "'laplace', 'matern32' or 'epanechnikov'"),
        ({"device": "cpu"}, "SoftBTree is for the CPU"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        FlatSoftTable(**{"value_width": 1, "tau": 1.0, "capacity": 10, **options})


def test_a_capacity_must_be_given():
    with pytest.raises(TypeError, match="capacity"):
        FlatSoftTable(1, 1.0)


@pytest.mark.skipif(len(_core.cuda_devices()) > 0, reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises((ValueError, RuntimeError)) as error:
        FlatSoftTable(1, 1.0, capacity=10)
    assert len(str(error.value)) > 20 and "\n" not in str(error.value)


def test_it_is_one_of_the_packages_names():
    assert "FlatSoftTable" in tandem.__all__
