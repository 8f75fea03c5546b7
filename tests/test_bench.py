"""The benchmark measures what it says: same network, same faces, finite rates. Its speed is not asserted."""

import math

import torch

from mifad_lite.bench import NaiveFaces, bench_attention, fastest, naive_epoch
from mifad_lite.model import PRESETS
from mifad_lite.synthetic import synthetic_faces
from mifad_lite.train import TrainConfig


def test_naive_faces_keep_label_range_and_shape():
    faces = synthetic_faces(14, seed=0)
    naive = NaiveFaces(faces)
    for i in range(len(naive)):
        x, y = naive[i]
        assert x.shape == (1, 48, 48)
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
        assert y == faces.labels[i]


def test_naive_epoch_trains_the_same_network():
    config = TrainConfig(network=PRESETS["tiny"].to_dict(), batch=8)
    assert 0 < naive_epoch(synthetic_faces(16, seed=0), config) < math.inf


def test_fastest_takes_the_smallest_of_the_repeats():
    calls = []
    assert fastest(lambda: calls.append(1), 4) >= 0
    assert len(calls) == 5, "one to warm up, four measured"


def test_attention_is_measured_three_ways():
    rows = bench_attention("cpu", batch=2, channels=4, side=4)
    assert len({row["name"] for row in rows}) == 3
    assert all(0 < row["milliseconds"] < math.inf for row in rows)
