"""Baselines: ResNet-18 against the published parameter count and its block in numpy; the columns alone."""

import numpy as np
import pytest
import torch
from formulas import array, batch_norm, conv2d, relu, scramble
from torch import nn

from mifad_lite import PRESETS, MIFADConfig, MIFADNet, ResNet18, ResNetConfig
from mifad_lite.baseline import BasicBlock, ColumnsNet


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(kind):
    torch.manual_seed(0)
    if kind == "resnet":
        return ResNet18(ResNetConfig(width=4)), 32
    return ColumnsNet(MIFADConfig(kernel_sizes=(3, 5), widths=((2, 3, 4, 3, 2, 4), (3,) * 6))), 7


def test_resnet18_has_the_published_parameters():
    """torchvision's ResNet-18 has 11,689,512. Ours has a 3x3 stem for one channel and seven classes."""
    published = 11_689_512
    published += (3 * 3 * 1 - 7 * 7 * 3) * 64  # stem
    published += (7 - 1000) * (512 + 1)  # head
    assert count(ResNet18()) == published == 11_171_271


def test_resnet18_stages():
    """Eighteen layers with weights; four stages of two blocks, each but the first halves the side."""
    net = ResNet18(ResNetConfig(width=4)).eval()
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        net(torch.zeros(1, 1, 48, 48))
    assert shapes == [(4, 48, 48)] * 2 + [(8, 24, 24)] * 2 + [(16, 12, 12)] * 2 + [(32, 6, 6)] * 2
    layers = [m for m in net.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(layers) == 18


def test_resnet18_reads_normalised_pixels_and_averages_the_last_maps():
    net, x = small("resnet")[0].double().eval(), torch.rand(2, 1, 48, 48, dtype=torch.float64)
    conv, norm, _ = net.stem
    stem = relu(batch_norm(conv2d((x.numpy() - 0.5) * 4, conv), norm, training=False))
    last = array(net.blocks(torch.from_numpy(stem)))
    np.testing.assert_allclose(array(net.features(x)), last.mean((2, 3)), rtol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 1), (3, 6, 2)])
def test_basic_block_equals_numpy(inputs, outputs, stride, training):
    block = scramble(BasicBlock(inputs, outputs, stride)).double().train(training)
    x = torch.randn(2, inputs, 8, 6, dtype=torch.float64)
    y = relu(batch_norm(conv2d(x.numpy(), block.conv1, stride), block.norm1, training))
    y = batch_norm(conv2d(y, block.conv2), block.norm2, training)
    shortcut = x.numpy()
    if (inputs, stride) != (outputs, 1):
        conv, norm = block.shortcut
        shortcut = batch_norm(conv2d(shortcut, conv, stride), norm, training)
    np.testing.assert_allclose(array(block(x.clone())), relu(y + shortcut), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["resnet", "columns"])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_one_image_alone(kind, batch):
    net, width = small(kind)
    net.eval()
    x = torch.rand(batch, 1, 48, 48)
    with torch.no_grad():
        assert net.features(x).shape == (batch, width)
        logits = net(x)
        assert logits.shape == (batch, 7)
        torch.testing.assert_close(torch.cat([net(face[None]) for face in x]), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.classify(net.features(x)), logits)


@pytest.mark.parametrize("kind", ["resnet", "columns"])
def test_every_parameter_gets_a_gradient(kind):
    net, _ = small(kind)
    nn.functional.cross_entropy(net(torch.rand(4, 1, 48, 48)), torch.tensor([0, 2, 4, 6])).backward()
    for name, p in net.named_parameters():
        assert p.grad.isfinite().all(), name
        if kind == "resnet" or ".convs." not in name:  # behind it, columns of two or three channels can be dark
            assert p.grad.abs().max() > 0, name


def test_columns_net_is_the_columns_of_the_whole_network():
    """Same columns, a linear head over their last maps: what remains of the network's cost is attention and fusion."""
    config = PRESETS["tiny"]
    net, whole = ColumnsNet(config), MIFADNet(config)
    assert count(net) == count(whole.columns) + 3 * 16 * 7 + 7
    net.columns.load_state_dict(whole.columns.state_dict())
    x = torch.rand(3, 1, 48, 48)
    with torch.no_grad():
        last = [array(column.eval()((x - 0.5) * 4)[-1]).mean((2, 3)) for column in whole.columns]
        np.testing.assert_allclose(array(net.eval().features(x)), np.concatenate(last, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"width": 0}, {"width": 2.5}, {"classes": 0}])
def test_bad_sizes_are_named(changes):
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, and must be a whole number of at least 1"):
        ResNetConfig(**changes)


@pytest.mark.parametrize("head", ["cosine", "nonsense", None])
def test_a_resnet_has_no_other_head(head):
    with pytest.raises(ValueError, match=f"head {head!r} is unknown: a ResNet-18 has a linear one"):
        ResNetConfig(head=head)


@pytest.mark.parametrize("kind", ["resnet", "columns"])
def test_gray_levels_are_refused(kind):
    net, _ = small(kind)
    with pytest.raises(ValueError, match=r"reads floats in \[0, 1\], not torch.uint8: divide by 255"):
        net(torch.zeros(2, 1, 48, 48, dtype=torch.uint8))
