"""Chapter 6's figure: its parameters and multiply-adds are those of the real network, counted by hooks."""

import matplotlib.pyplot as plt
import pytest
import torch
from selenium.webdriver.support.ui import Select
from torch import nn

from mifad_lite import MIFADConfig, MIFADNet, interactive

SET = """
const [root, label, value] = [document.getElementById("mifad-network"), arguments[0], arguments[1]];
const input = root.querySelector(`[aria-label="${label}"]`);
input.value = value;
input.dispatchEvent(new Event(input.localName === "select" ? "change" : "input"));
"""


def counted(kernels, width, channels, grid, embedding):
    """Parameters and multiply-adds of one face: layers by hooks, attention products by their shape."""
    widths = tuple(f * width for f in (1, 2, 3, 4, 4, 4))
    config = MIFADConfig(kernels, widths, channels=channels, pool_grid=grid, embedding=embedding)
    net, macs = MIFADNet(config).eval(), []

    def hook(module, _, out):
        places = out.shape[2:].numel() if out.dim() == 4 else 1
        macs.append(module.weight.numel() * places)

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    with torch.no_grad():
        net(torch.zeros(1, 1, 48, 48))
    attention = 3 * (channels * channels * 144 + 144 * 144 * channels)
    head = net.head.weight.numel()
    return sum(p.numel() for p in net.parameters()), sum(macs) + attention + head


@pytest.fixture
def figure(browser, tmp_path):
    page = tmp_path / "network.html"
    page.write_text("<!doctype html><body>" + interactive.block("network", {}, plt.figure(), "The network."), "utf8")
    browser.get(page.as_uri())
    return browser


@pytest.mark.parametrize(
    ("kernels", "width", "channels", "grid", "embedding"),
    [((7, 5, 3), 16, 48, 3, 128), ((3, 5), 8, 32, 1, 64), ((3, 5, 7, 9), 12, 16, 6, 256), ((3,), 4, 16, 2, 16)],
)
def test_costs_are_the_networks(figure, kernels, width, channels, grid, embedding):
    Select(figure.find_element("css selector", "[aria-label=columns]")).select_by_value("-".join(map(str, kernels)))
    for label, value in (("width of the columns", width), ("channels C", channels), ("pooling grid", grid)):
        figure.execute_script(SET, label, value)
    figure.execute_script(SET, "embedding E", embedding)
    state = figure.execute_script("return document.getElementById('mifad-network').state")
    assert (state["params"], state["macs"]) == counted(kernels, width, channels, grid, embedding)
