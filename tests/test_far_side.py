"""The angles after each epoch (far_side.py)."""

import math
from dataclasses import replace

import far_side
import pytest
import torch
from torch import nn

from mifad_lite.data import FaceSet
from mifad_lite.records import read_record
from mifad_lite.synthetic import synthetic_data
from mifad_lite.train import PROFILES

CONFIG = replace(PROFILES["smoke"], epochs=2, batch=16, margin=0.3)


class Directions(nn.Module):
    """A cosine head on two numbers that stand in an image's first two pixels, as multiples of 1/255."""

    def __init__(self, degrees):
        super().__init__()
        self.config = type("Config", (), {"scale": 16.0})
        self.head = nn.Linear(2, len(degrees), bias=False)
        radians = torch.deg2rad(torch.tensor(degrees))
        self.head.weight.data = 3 * torch.stack([radians.cos(), radians.sin()], 1)  # lengths do not count

    def forward(self, x):
        place = nn.functional.normalize(x[:, 0, 0, :2] - 128 / 255, dim=1)
        return 16 * place @ nn.functional.normalize(self.head.weight, dim=1).T


def test_known_angles_are_found():
    images = torch.full((3, 1, 48, 48), 128, dtype=torch.uint8)
    for i, degrees in enumerate((2.0, 92.0, 178.0)):
        images[i, 0, 0, 0] = 128 + round(120 * math.cos(math.radians(degrees)))
        images[i, 0, 0, 1] = 128 + round(120 * math.sin(math.radians(degrees)))
    faces = FaceSet(images, torch.tensor([0, 1, 0]))
    found = far_side.look(Directions([0.0, 60.0, 170.0]), faces)
    assert found["between"] == [60, pytest.approx((60 + 110 + 170) / 3, abs=0.01), 170]
    assert found["answers"] == [1, 1, 1]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert [i for i, n in enumerate(found["own"]) if n] == [0, 6, 35]  # 2, 32 and 178 degrees
    assert sum(found["own"]) == 3


def test_a_run_looks_after_each_epoch_and_is_kept(tmp_path):
    data = synthetic_data(48, public=28, private=7)
    lines = []
    record = far_side.run(data, CONFIG, tmp_path, lines.append)
    assert [e["epoch"] for e in record["epochs"]] == [1, 2]
    assert len(lines) == 2
    for epoch in record["epochs"]:
        assert sum(epoch["own"]) == sum(epoch["answers"]) == 28
        assert epoch["accuracy"] == pytest.approx(epoch["public_accuracy"], abs=1e-6)  # the network that was judged
        assert 0 < epoch["between"][0] <= epoch["between"][1] <= epoch["between"][2] <= 180
    assert [p.name for p in tmp_path.iterdir()] == ["m0.3.json"]
    assert read_record(tmp_path / "m0.3.json") == record == far_side.run(data, CONFIG, tmp_path, lines.append)
    assert len(lines) == 2  # not trained again
    with pytest.raises(ValueError, match=r"m0\.3\.json: this run has other data or settings"):
        far_side.run(data, replace(CONFIG, lr=1e-3), tmp_path)
    with pytest.raises(ValueError, match="other data"):
        far_side.run(synthetic_data(49, public=28, private=7), CONFIG, tmp_path)


def test_what_a_cut_run_left_is_made_anew(tmp_path):
    data = synthetic_data(48, public=28, private=7)

    def cut(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        far_side.run(data, CONFIG, tmp_path, cut)
    assert [p.name for p in tmp_path.iterdir()] == ["m0.3.unfinished"]
    assert len(far_side.run(data, CONFIG, tmp_path, str)["epochs"]) == 2
