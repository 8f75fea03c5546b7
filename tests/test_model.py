"""The whole network: shapes, counts, gradients in every variant, and what must not change its output."""

import itertools
import json

import numpy as np
import pytest
import torch
from formulas import array, batch_norm, scramble
from torch import nn

import mifad_lite
from mifad_lite import PRESETS, MIFADConfig, MIFADNet

SMALL = dict(widths=(3, 4, 5, 6, 4, 5), channels=4, embedding=8)
UNEVEN = dict(widths=((2, 3, 4, 3, 2, 4), (3,) * 6, (4, 3, 2, 5, 4, 3)), channels=4, embedding=8)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return scramble(MIFADNet(MIFADConfig(**SMALL | changes)), seed)


def faces(batch, seed=1):
    return torch.rand(batch, 1, 48, 48, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def parameters(config):
    """Counted from the equations, not from the modules."""
    columns = list(zip(config.kernel_sizes, config.column_widths(), strict=True))
    c = config.channels
    total = 0
    for k, widths in columns:
        total += sum(k * k * a * b for a, b in zip((1, *widths), widths, strict=False))  # convolutions
        total += 2 * sum(widths[:5]) + widths[5]  # five norms, one bias
    channel = (c * c + c) + 1 + 2 * c + 1  # conv1x1, PReLU, norm, alpha
    spatial = (2 * 9 + 1) + 1 + 2 + 1  # conv3x3, PReLU, norm, beta
    attention = {"both": channel + spatial, "channel": channel, "spatial": spatial, "none": 0}[config.attention]
    spliced = len(columns) if config.fusion == "concat" else 1
    for depth in (4, 5, 6):
        total += sum(w[depth - 1] * c + c for _, w in columns if w[depth - 1] != c)  # alignment
        total += 9 * len(columns) * c * c + c + attention  # gate
        total += (spliced + 1) * c * c + 2 * c  # projection and norm
    e = config.embedding
    total += 3 * c * config.pool_grid**2 * e + 2 * e  # embedding and norm
    return total + e * config.classes + (config.classes if config.head == "linear" else 0)


# --- what it is made of ----------------------------------------------------------------------------------------------


def test_parts_are_importable_alone():
    parts = {"ChannelAttention", "SpatialAttention", "AttentionModule", "InteractiveFusion", "CosineClassifier"}
    losses = {"AngularDistanceLoss", "CenterLoss", "IslandLoss"}
    assert parts | losses | {"MIFADConfig", "MIFADNet"} <= set(mifad_lite.__all__)
    assert all(hasattr(mifad_lite, name) for name in mifad_lite.__all__)


@pytest.mark.parametrize(("name", "count"), [("tiny", 123_523), ("lite", 1_360_331), ("base", 5_430_603)])
def test_preset_parameters(name, count):
    """Pinned, counted from the equations, and inside the promised sizes."""
    config = PRESETS[name]
    assert sum(p.numel() for p in MIFADNet(config).parameters()) == count == parameters(config)
    low, high = {"tiny": (0, 0.2e6), "lite": (1e6, 2e6), "base": (2e6, 20e6)}[name]
    assert low < count < high
    assert config.kernel_sizes == (7, 5, 3)
    assert (config.attention, config.fusion, config.head) == ("both", "concat", "cosine")  # the paper's best


@pytest.mark.parametrize("shape", [SMALL, UNEVEN])
def test_each_column_has_its_kernel_and_its_widths(shape):
    net = MIFADNet(MIFADConfig(**shape))
    wanted = shape["widths"] if isinstance(shape["widths"][0], tuple) else [shape["widths"]] * 3
    for column, kernel, widths in zip(net.columns, (7, 5, 3), wanted, strict=True):
        convs = [m for m in column.modules() if isinstance(m, nn.Conv2d)]
        assert [(c.out_channels, *c.kernel_size) for c in convs] == [(w, kernel, kernel) for w in widths]


VARIANTS = list(
    itertools.product(
        ("both", "channel", "spatial", "none"),
        ("concat", "add", "mul"),
        ((3,), (3, 5), (7, 5, 3), (3, 5, 7, 9)),
        ("cosine", "linear"),
    )
)


@pytest.mark.parametrize(("attention", "fusion", "kernels", "head"), VARIANTS)
def test_every_variant_maps_faces_to_logits_and_trains_every_parameter(attention, fusion, kernels, head):
    """alpha and beta are moved off 0, where the inside of an attention block has no gradient yet."""
    net = network(attention=attention, fusion=fusion, kernel_sizes=kernels, head=head)
    assert sum(p.numel() for p in net.parameters()) == parameters(net.config)
    x = faces(3)
    embedding = net.features(x)
    logits = net(x)
    assert embedding.shape == (3, 8)
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # a PReLU without negative input has no slope to learn, a shift of all places is undone by the norm
        inert = ".attention." in name and name.endswith(("act.weight", "conv.bias"))
        assert inert or p.grad.abs().max() > 0, name


# --- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grid", [1, 3])
def test_the_page_as_it_is_read(grid, training):
    """Columns see 4 (x - 0.5); depths 4, 5, 6 are fused, pooled to a grid, joined, embedded, normalised."""
    net = network(pool_grid=grid, **UNEVEN).double().train(training)
    x = faces(4).double()
    by_column = [column((x - 0.5) * 4) for column in net.columns]
    pooled = []
    for i, fusion in enumerate(net.fusions):
        fused = array(fusion([maps[i] for maps in by_column]))  # (B, C, 12, 12)
        assert fused.shape == (4, 4, 12, 12)
        cells = fused.reshape(4, 4, grid, 12 // grid, grid, 12 // grid)
        pooled.append(cells.mean((3, 5)).reshape(4, -1))
    expected = batch_norm(np.concatenate(pooled, 1) @ array(net.embed.weight).T, net.norm, training)
    np.testing.assert_allclose(array(net.features(x)), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 16.0])
def test_logits_carry_the_scale_and_no_margin(scale):
    net = network(scale=scale).eval()
    x = faces(5)
    embedding = array(net.features(x))
    np.testing.assert_allclose(array(net(x)), scale * unit(embedding) @ unit(array(net.head.weight)).T, atol=1e-5)
    assert net(x).abs().max() <= scale * (1 + 1e-6)


def test_linear_head_is_affine():
    net = network(head="linear", scale=16.0).eval()
    expected = array(net.features(faces(5))) @ array(net.head.weight).T + array(net.head.bias)
    np.testing.assert_allclose(array(net(faces(5))), expected, rtol=1e-5, atol=1e-5)


def test_attention_is_off_until_alpha_and_beta_move():
    """A fresh network equals the one without attention that has its other weights."""
    net = MIFADNet(MIFADConfig(**SMALL)).eval()
    bare = MIFADNet(MIFADConfig(**SMALL, attention="none")).eval()
    bare.load_state_dict(net.state_dict(), strict=False)
    assert torch.equal(net(faces(3)), bare(faces(3)))
    for name, p in net.named_parameters():
        if name.endswith(("alpha", "beta")):
            nn.init.ones_(p)
    assert not torch.allclose(net(faces(3)), bare(faces(3)), atol=1e-3)


@pytest.mark.parametrize("attention", ["both", "channel", "spatial", "none"])
def test_maps_for_plotting(attention):
    """Asking for the maps does not change the embedding; every row of an attention map sums to 1."""
    net = network(attention=attention).eval()
    embedding, seen = net.features(faces(2), return_maps=True)
    torch.testing.assert_close(embedding, net.features(faces(2)), rtol=1e-5, atol=1e-5)
    sizes = {"channel": (2, 4, 4), "spatial": (2, 144, 144)}
    wanted = {name: size for name, size in sizes.items() if attention in (name, "both")}
    assert seen.keys() == {4, 5, 6}
    for maps in seen.values():
        assert maps.pop("gate").shape == (2, 4, 12, 12)
        assert {name: tuple(a.shape) for name, a in maps.items()} == wanted
        for a in maps.values():
            torch.testing.assert_close(a.sum(2), torch.ones(a.shape[:2]))


def test_training_at_48_pixels_never_builds_144_by_144():
    """The same promise as in test_attention.py, kept by the network: no operation makes an HW x HW tensor."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Squares(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.found += isinstance(out, torch.Tensor) and out.shape[-2:] == (144, 144)
            return out

    net = network()
    with Squares() as plain:
        net(faces(2)).sum().backward()
    with Squares() as asked:
        net.features(faces(2), return_maps=True)
    assert plain.found == 0
    assert asked.found >= 3  # once a depth: the check sees them where they are


@pytest.mark.parametrize("name", ["lite", "wide", "slim"])
def test_sides_of_the_maps_follow_the_pools(name):
    """12, 12, 12 after pools at 1 and 3; 12, 6, 6 after pools at 1, 2 and 4."""
    net = MIFADNet(PRESETS[name]).eval()
    with torch.no_grad():
        _, seen = net.features(faces(1), return_maps=True)
    sides = [12, 12, 12] if net.config.pool_after == (1, 3) else [12, 6, 6]
    assert [maps["gate"].shape[-1] for maps in seen.values()] == sides
    assert [maps["spatial"].shape[-1] for maps in seen.values()] == [side**2 for side in sides]


# --- what must not change it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 7])
def test_an_image_is_judged_alone_in_evaluation(batch):
    """Odd batches, a batch of one, another order: the same logits for the same face."""
    net, x = network().eval(), faces(batch)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = net(x)
        torch.testing.assert_close(torch.cat([net(face[None]) for face in x]), together, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x[order]), together[order], rtol=1e-4, atol=1e-5)


def test_order_of_the_batch_does_not_matter_in_training():
    net, x = network().train(), faces(6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(x[order]), net(x)[order], rtol=1e-4, atol=1e-4)


def test_channels_last_changes_nothing():
    """Forward and backward; `view` and `reshape` are where a layout would show."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = network(**UNEVEN).double().to(memory_format=layout)
        logits = net(faces(4).double().contiguous(memory_format=layout))
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in net.parameters())])
    for plain, last in zip(*results, strict=True):
        torch.testing.assert_close(plain, last, rtol=1e-7, atol=1e-9)


def test_bf16_autocast_trains_and_stays_near_float32():
    torch.manual_seed(0)
    net, x = MIFADNet(PRESETS["tiny"]), faces(32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
    logits.square().sum().backward()
    assert logits.dtype == torch.float32  # cosines
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert nn.functional.cosine_similarity(logits.flatten(), net(x).flatten(), dim=0) > 0.99


def test_dropout_is_for_training():
    net = network(dropout=0.5)
    assert not torch.equal(net(faces(4)), net(faces(4)))
    net.eval()
    assert torch.equal(net(faces(4)), net(faces(4)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_gray_levels_are_refused(dtype):
    """Undivided they would saturate the network, and its answers would be chance."""
    net, x = network().eval(), (255 * faces(2)).to(dtype)
    for call in (net, net.features):
        with pytest.raises(ValueError, match=rf"reads floats in \[0, 1\], not {dtype}: divide by 255"):
            call(x)


# --- its configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*PRESETS.values(), MIFADConfig(**UNEVEN, fusion="mul", head="linear")])
def test_configuration_survives_json(config):
    again = MIFADConfig(**json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)  # tuples all through


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kernel_sizes": ()}, "kernel_sizes is empty"),
        ({"kernel_sizes": (3, 4)}, "kernel_size 4 is not odd"),
        ({"widths": (4, 4, 4)}, "3 widths were given"),
        ({"widths": ((4,) * 6, (4,) * 6)}, "2 tuples of widths were given for 3 columns"),
        ({"attention": "self"}, "attention 'self' is unknown"),
        ({"fusion": "sum"}, "fusion 'sum' is unknown"),
        ({"head": "arc"}, "head 'arc' is unknown"),
        ({"channels": 0}, "channels is 0, and must be a whole number of at least 1"),
        ({"embedding": -8}, "embedding is -8"),
        ({"pool_grid": 1.5}, "pool_grid is 1.5"),
        ({"classes": "seven"}, "classes is 'seven'"),
        ({"widths": (2, 2, 0, 4, 4, 4)}, "a column's width is 0"),
    ],
)
def test_bad_configuration_is_named_in_one_sentence(changes, says):
    with pytest.raises(ValueError, match=says) as error:
        MIFADNet(MIFADConfig(**changes))
    assert "\n" not in str(error.value)
