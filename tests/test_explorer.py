"""The record behind the moving figures, recomputed another way."""

import base64

import numpy as np
import pytest
import torch

from mifad_lite import checkpoint, explorer, records
from mifad_lite.augment import to_float


@pytest.fixture(scope="module")
def net():
    return checkpoint.load_network(checkpoint.DRAWN)[0].double()


@pytest.fixture(scope="module")
def faces():
    return to_float(explorer.chosen_faces().images).double()


@pytest.fixture(scope="module")
def record():
    return records.read_record("explorer")


def unpack(text, *shape):
    return torch.tensor(np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) / 255.0)


@torch.no_grad()
def test_record_is_what_the_network_computes(net, faces, record):
    """The maps that `features` returns, against those that follow from the record's vectors."""
    _, seen = net.features(faces, return_maps=True)
    for depth, maps in seen.items():
        stored = record["depths"][str(depth)]
        for kind in ("channel", "spatial"):
            v = torch.tensor(stored[f"{kind}_v"], dtype=torch.float64)
            attention = torch.softmax(v[:, :, None] * v[:, None, :], dim=2)
            assert torch.allclose(attention, maps[kind], atol=5e-3)
        assert torch.allclose(unpack(stored["gate"], *maps["gate"].shape), maps["gate"], atol=0.003)
    assert torch.allclose(torch.tensor(record["probabilities"]).double(), net(faces).softmax(1).double(), atol=1e-3)
    assert torch.allclose(unpack(record["faces"], *faces.shape), faces, atol=1e-6)


@torch.no_grad()
def test_occlusion_hides_the_place_it_names(net, faces, record):
    stored = unpack(record["occlusion"][4], 13, 13, 7)
    for i, j in ((0, 0), (2, 9), (12, 12)):
        hidden = faces[4:5].clone()
        hidden[..., 3 * i : 3 * i + 12, 3 * j : 3 * j + 12] = faces[4].mean()
        assert torch.allclose(stored[i, j], net(hidden).softmax(1)[0].double(), atol=5e-3)


@torch.no_grad()
def test_the_network_knows_drawn_faces(net, faces, record):
    assert net(faces).argmax(1).tolist() == list(range(7))


def test_gray_levels_are_refused(net):
    """They would be read as numbers far outside [0, 1]."""
    gray = explorer.chosen_faces().images
    with pytest.raises(ValueError, match=r"^a network reads floats in \[0, 1\], not torch.uint8"):
        explorer.columns_of(net, gray)
