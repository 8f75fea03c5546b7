"""The widgets' callbacks: a moved control redraws the picture, and what is drawn is what the package computes."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mifad_lite import PRESETS, MIFADNet, synthetic_faces, widgets


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MIFADNet(PRESETS["tiny"]).eval()


@pytest.fixture
def seven():
    return synthetic_faces(7, 1, labels=torch.arange(7))


@pytest.fixture(params=["faces", "margin", "augmentations", "attention", "hide"])
def widget(request, net, seven):
    arguments = {"augmentations": [seven], "attention": [net, seven], "hide": [net, seven]}
    return getattr(widgets, request.param)(*arguments.get(request.param, []))


def move(control):
    """Another value for a control."""
    if isinstance(control, ipywidgets.Dropdown):
        control.value = next(option for option in control.options if option != control.value)
    else:
        control.value = control.min if control.value > (control.min + control.max) / 2 else control.max


def test_every_control_redraws(widget):
    assert isinstance(widget, ipywidgets.VBox)
    assert widget.picture.tooltip.endswith(".")
    for name, control in widget.controls.items():
        before = bytes(widget.picture.value)
        assert before.startswith(b"\x89PNG")
        move(control)
        assert bytes(widget.picture.value) != before, name
        assert control.description
    assert not plt.get_fignums()  # every figure was closed


def image_of(figure, axis=0):
    values = np.asarray(figure.axes[axis].images[0].get_array())
    plt.close(figure)
    return values


def test_faces_are_the_drawn_faces():
    sheet = image_of(widgets.faces().draw(intra=0.2, inter=0.1, seed=5))
    drawn = synthetic_faces(21, 5, intra=0.2, inter=0.1, labels=torch.arange(7).repeat(3))
    assert (sheet[50:98, 100:148] == drawn.images[7 + 2, 0].numpy()).all()  # row 2, third class


def test_attention_shows_the_networks_maps(net, seven):
    widget = widgets.attention(net, seven)
    figure = widget.draw(face=2, depth=5, row=3, column=8)
    with torch.no_grad():
        _, maps = net.features(seven.images[2:3].float() / 255, return_maps=True)
    row = np.asarray(figure.axes[2].images[0].get_array())
    assert np.allclose(row, maps[5]["spatial"][0, 3 * 12 + 8].reshape(12, 12), atol=1e-5)
    marked = figure.axes[0].patches[0]
    assert (marked.get_x() + 0.5, marked.get_y() + 0.5, marked.get_width()) == (32, 12, 4)
    assert np.allclose(image_of(figure, 1), maps[5]["channel"][0], atol=1e-5)


def test_margin_draws_the_loss_of_two_classes():
    figure = widgets.margin().draw(scale=10, margin=0.3)
    degrees, losses = figure.axes[0].lines[0].get_data()
    slopes = figure.axes[1].lines[0].get_ydata()
    plt.close(figure)
    theta = np.radians(degrees)
    expected = np.log1p(np.exp(10 * (np.sin(theta) - np.cos(theta + 0.3))))
    assert np.allclose(losses, expected, atol=1e-5)
    assert np.allclose(slopes[1:-1], np.gradient(expected, theta)[1:-1], rtol=2e-2, atol=2e-2)


def test_augmentations_at_zero_change_nothing(seven):
    widget = widgets.augmentations(seven)
    none = dict.fromkeys((name for name in widget.controls if name != "seed"), 0.0)
    sheet = image_of(widget.draw(seed=3, **none))
    for row in range(4):
        assert (sheet[50 * row : 50 * row + 48, :48] == seven.images[0, 0].numpy()).all()


def test_hide_hides_each_place(net, seven):
    heat = image_of(widgets.hide(net, seven).draw(face=4), axis=1)
    image = seven.images[4:5].float() / 255
    image[..., 6:18, 27:39] = image.mean()
    with torch.no_grad():
        assert np.isclose(heat[2, 9], net(image).softmax(1)[0, 4].item(), atol=1e-5)
