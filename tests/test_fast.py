"""The 8-bit network against the network it was made of, and its parts against float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mifad_lite import PRESETS, MIFADConfig, MIFADNet, ResNet18, ResNetConfig, accelerate, checkpoint, load_network
from mifad_lite.attention import AttentionModule
from mifad_lite.evaluate import predict_logits
from mifad_lite.fast import FEW, FastAttention, IntegerConv, fold, max_pool
from mifad_lite.synthetic import synthetic_faces

SMALL = {"widths": (4, 6, 8, 8, 10, 12), "channels": 8, "embedding": 16}


def scrambled(config, seed=0):
    """A network whose batch norms, attention weights and biases are all away from where they start."""
    torch.manual_seed(seed)
    net = MIFADNet(config)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
        for name, p in net.named_parameters():
            if name.endswith(("alpha", "beta")):
                p.fill_(0.3)
    return net.eval()


@pytest.fixture(scope="module")
def drawn():
    return load_network(checkpoint.DRAWN)[0]


@pytest.mark.parametrize("name", ["tiny", "wide"])
def test_folding_changes_nothing(name):
    net = scrambled(PRESETS[name]).double()
    folded = fold(net)
    x = torch.rand(3, 1, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-9, atol=1e-9)
    left = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(left) == 6, "those of the two attentions, three times"


@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    zero=st.sampled_from([0, 128]),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_integer_convolution_equals_float64(kernel, inputs, outputs, zero, relu, seed):
    """With weights that eight bits hold exactly, the result is the true one, rounded to its step."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-127, 128, (outputs, inputs, kernel, kernel))
    steps[:, 0, 0, 0] = 127  # so that the scale of each output channel is known
    weight_scale = rng.uniform(0.5, 2, (outputs, 1, 1, 1)) / 127
    q = rng.integers(0, 256, (2, inputs, 9, 9))
    bias, scale = rng.normal(size=outputs), 0.01
    real = torch.from_numpy((q - zero) * scale)
    wanted = F.conv2d(real, torch.from_numpy(steps * weight_scale), torch.from_numpy(bias), padding=kernel // 2)
    wanted = wanted.relu() if relu else wanted
    step = max(wanted.abs().max().item(), 0.1) / (255 if relu else 127)
    out_zero = 0 if relu else 128

    weight = torch.from_numpy(steps * weight_scale).float()
    pixels = torch.from_numpy(q).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    conv = IntegerConv(weight, torch.from_numpy(bias), (scale, zero), (step, out_zero), relu)
    out = conv(pixels)
    assert out.dtype == torch.uint8
    assert ((out.double() - out_zero) * step - wanted).abs().max() < 0.51 * step + 1e-6
    plain = IntegerConv(weight, torch.from_numpy(bias), (scale, zero), None, relu)(pixels)
    assert plain.dtype == torch.bfloat16
    torch.testing.assert_close(plain.double(), wanted, rtol=2**-7, atol=1e-5)


def test_values_beyond_the_scale_are_clipped_not_wrapped():
    conv = IntegerConv(torch.ones(1, 1, 1, 1), torch.zeros(1), (1.0, 0), (0.1, 0), relu=True)
    assert conv(torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)).eq(255).all()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_max_pool_equals_torchs_on_floats(batch, channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 256, (batch, channels, height, width), generator=generator, dtype=torch.uint8)
    for x in (q, q.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(max_pool(x).float(), F.max_pool2d(x.float(), 2))


@pytest.mark.parametrize("faces", [FEW - 1, FEW])
@pytest.mark.parametrize("kind", AttentionModule.KINDS)
def test_attention_without_gradients_equals_that_with_them(kind, faces):
    torch.manual_seed(0)
    module = AttentionModule(12, kind).eval()
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(("alpha", "beta")):
                p.fill_(-0.7)
    x = torch.randn(faces, 12, 7, 9).bfloat16()
    wanted = copy.deepcopy(module).double()(x.double())
    found = FastAttention(module)(x.permute(0, 2, 3, 1).contiguous())
    assert found.dtype == torch.bfloat16
    off = (found.permute(0, 3, 1, 2).double() - wanted).square().mean().sqrt()
    assert off < 2**-7 * wanted.square().mean().sqrt(), "a few roundings to eight bits of mantissa"
    if kind != "none":
        assert (x - wanted).square().mean().sqrt() > 20 * off


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fusion": "add"},
        {"fusion": "mul"},
        {"attention": "none"},
        {"attention": "channel"},
        {"attention": "spatial"},
        {"pool_after": (1, 2, 4), "pool_grid": 3},
        {"kernel_sizes": (3, 5), "head": "linear"},
    ],
    ids=str,
)
def test_close_to_the_network_it_was_made_of(changes):
    net = scrambled(MIFADConfig(**{**SMALL, **changes}))
    images = synthetic_faces(96, seed=3).images
    fast = accelerate(net, images[:64])
    wanted = predict_logits(net, images)

    def error(logits):  # against the spread between faces
        return (logits - wanted).square().mean().sqrt() / (wanted - wanted.mean(0)).square().mean().sqrt()

    rounded = error(fast(images))
    assert 0 < rounded < 0.4
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(("alpha", "beta")):
                p.zero_()
    if changes.get("attention") != "none":
        assert error(predict_logits(net, images)) > 2 * rounded, "a part left out is another matter"


def test_a_trained_network_gives_the_same_answers(drawn):
    images = synthetic_faces(700, seed=11)
    fast = accelerate(drawn, synthetic_faces(128, seed=12).images)
    a, b = predict_logits(drawn, images.images).argmax(1), predict_logits(fast, images.images).argmax(1)
    assert (a == b).float().mean() > 0.98
    assert abs((a == images.labels).float().mean() - (b == images.labels).float().mean()) < 0.01


@pytest.mark.parametrize("fusion", ["concat", "add", "mul"])
def test_a_few_faces_get_what_many_get(fusion):
    """By another way, so up to the roundings of bfloat16; the faces themselves differ by far more."""
    net = scrambled(MIFADConfig(**SMALL, fusion=fusion))
    images = synthetic_faces(64, seed=3).images
    fast = accelerate(net, images)
    many = fast(images)
    few = torch.cat([fast(images[i : i + FEW - 1]) for i in range(0, 64, FEW - 1)])
    assert (few - many).square().mean().sqrt() < 0.03 * (many - many.mean(0)).square().mean().sqrt()


def test_uint8_and_float_images_give_the_same(drawn):
    images = synthetic_faces(14, seed=1).images
    fast = accelerate(drawn, images)
    assert torch.equal(fast(images), fast(images.float() / 255))


def test_the_network_stays_as_it_is(drawn):
    images = synthetic_faces(14, seed=1).images
    before = {k: v.clone() for k, v in drawn.state_dict().items()}
    accelerate(drawn, images)(images)
    assert all(torch.equal(v, before[k]) for k, v in drawn.state_dict().items())
    assert drawn.columns[0].norms[0].__class__.__name__ == "BatchNorm2d"


def test_what_it_refuses(drawn):
    images = synthetic_faces(7).images
    with pytest.raises(ValueError, match="ResNet18 has no 8-bit form"):
        accelerate(ResNet18(ResNetConfig(4)), images)
    with pytest.raises(ValueError, match=r"give uint8 \(N, 1, 48, 48\)"):
        accelerate(drawn, images.float())
    with pytest.raises(ValueError, match="N > 0"):
        accelerate(drawn, images[:0])


def test_floats_beyond_0_and_1_are_cut_off(drawn):
    """They once wrapped around: a little more than white was black."""
    images = synthetic_faces(14, seed=1).images
    fast = accelerate(drawn, images)
    beyond = (images.float() - 60) * 2 / 255
    assert beyond.min() < -0.1
    assert beyond.max() > 1.1
    assert torch.equal(fast(beyond), fast(beyond.clamp(0, 1)))
    beyond[0, 0, 0, :2] = torch.tensor([-torch.inf, torch.inf])
    assert torch.equal(fast(beyond), fast(beyond.clamp(0, 1)))


def test_pixels_that_are_no_gray_levels_are_refused(drawn):
    images = synthetic_faces(7).images
    fast = accelerate(drawn, images)
    with pytest.raises(ValueError, match=r"torch.int64 images: give uint8, or floats in \[0, 1\]"):
        fast(images.long())
    bad = images.float() / 255
    bad[3, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="some pixels are NaN"):
        fast(bad)


@pytest.mark.parametrize("shape", [(4, 3, 48, 48), (4, 1, 40, 40), (4, 1, 48), (4, 48, 48)])
def test_calibration_images_of_another_shape_are_refused(drawn, shape):
    with pytest.raises(ValueError, match=r"of shape \(4, .*: give uint8 \(N, 1, 48, 48\), N > 0"):
        accelerate(drawn, torch.zeros(shape, dtype=torch.uint8))
