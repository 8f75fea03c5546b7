"""The block of HTML around an interactive figure: whole, described, safe to embed."""

import base64
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from mifad_lite import interactive


def block(name="schedule", data=None, alt="A rising line.", **kwargs):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [0, 1])
    try:
        return interactive.block(name, {"lr": 0.1, "margin": 0.2} if data is None else data, figure, alt, **kwargs)
    finally:
        plt.close(figure)


def test_block_holds_picture_data_and_script():
    data = {"text": "</script><b>&é", "n": [1.5, None]}
    soup = BeautifulSoup(block(data=data, alt='Two "quotes" & <b>'), "html.parser")
    root = soup.find(id="mifad-schedule")
    assert root["aria-label"] == root.img["alt"] == 'Two "quotes" & <b>'
    assert base64.b64decode(root.img["src"].split(",")[1]).startswith(b"\x89PNG")
    embedded, script = root.find_all("script")
    assert json.loads(embedded.string) == data
    assert (interactive.JS / "schedule.js").read_text("utf8") in script.string
    assert not soup.find("b")  # neither the data nor the description broke out


def test_the_same_arguments_give_the_same_text():
    assert block() == block()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="no interactive figure 'nothing': choose one of .*schedule"):
        block("nothing")
    with pytest.raises(ValueError, match="alt is empty"):
        block(alt="  ")
    with pytest.raises(ValueError, match="not JSON compliant"):
        block(data={"x": float("nan")})


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=50))
def test_packing_rounds_to_one_of_256_steps(values):
    packed = np.frombuffer(base64.b64decode(interactive.pack(np.array(values), -2, 2)), np.uint8)
    back = -2 + packed / 255 * 4
    assert np.abs(back - np.clip(values, -2, 2)).max() <= 4 / 255 / 2 + 1e-12
    assert interactive.pack(torch.tensor(values, dtype=torch.float64), -2, 2) == interactive.pack(values, -2, 2)


@pytest.mark.parametrize("path", sorted(interactive.JS.iterdir()), ids=lambda path: path.name)
def test_scripts_need_no_network(path):
    text = path.read_text("utf8")
    allowed = {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}
    assert set(re.findall(r"https?://[^\s\"')]+", text)) <= allowed
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|require|eval|Math\.random|Date)\b *\(", text)
