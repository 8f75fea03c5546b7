"""Chapter 8's figure: its losses and gradients are those of mifad_lite, before and after a step."""

import matplotlib.pyplot as plt
import pytest
import torch
from selenium.webdriver.support.ui import Select

from mifad_lite import CenterLoss, IslandLoss, interactive

X = [[1.0, 0.9], [1.4, 0.2], [-0.9, 1.1], [-0.2, 1.5], [0.3, -1.0], [-0.6, -1.2], [1.2, -0.4], [0.8, -0.9]]
Y = [0, 0, 1, 1, 2, 2, 3, 3]
CENTERS = [[1.0, 0.4], [0.2, 1.2], [-0.3, 0.7], [0.9, -0.3]]


@pytest.fixture
def state(browser, tmp_path):
    """A function that runs a script on the figure and returns its numbers."""
    data = {"x": X, "y": Y, "centers": CENTERS, "names": ["a", "b", "c", "d"]}
    page = tmp_path / "pull.html"
    page.write_text("<!doctype html><body>" + interactive.block("pull", data, plt.figure(), "Centers."), "utf8")
    browser.get(page.as_uri())
    return lambda: browser.execute_script("return document.getElementById('mifad-pull').state")


def expected(kind, x, centers, weight):
    """Loss and gradients from the package, float64."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    loss_of = CenterLoss(4, 2) if kind == "center" else IslandLoss(4, 2, pairwise_weight=weight)
    loss_of = loss_of.double()
    loss_of.centers.data = torch.tensor(centers, dtype=torch.float64)
    loss = loss_of(x, torch.tensor(Y))
    return loss.item(), *torch.autograd.grad(loss, (x, loss_of.centers))


@pytest.mark.parametrize("kind", ["center", "island"])
def test_numbers_are_the_losses(browser, state, kind):
    Select(browser.find_element("css selector", "select")).select_by_value(kind)
    for _ in range(3):
        found = state()
        loss, grad_x, grad_c = expected(kind, found["x"], found["centers"], 1.0)
        assert found["loss"] == pytest.approx(loss, abs=1e-5)
        assert torch.allclose(torch.tensor(found["gradX"]).double(), grad_x, atol=1e-5)
        assert torch.allclose(torch.tensor(found["gradC"]).double(), grad_c, atol=1e-5)
        browser.find_element("xpath", "//button[text()='one step']").click()
        assert state()["loss"] < found["loss"]


def test_the_push_ends_where_the_directions_sum_to_zero(browser, state):
    for _ in range(40):
        browser.find_element("xpath", "//button[text()='twenty steps']").click()
    found = state()
    assert found["push"] == pytest.approx(4 * 2, abs=0.2)
    unit = torch.nn.functional.normalize(torch.tensor(found["centers"]), dim=1)
    assert unit.sum(0).norm() < 0.5
