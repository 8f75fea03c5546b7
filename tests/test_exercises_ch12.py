"""Right answers, stubs and classic mistakes for the exercises of chapter 12."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from mifad_lite import exercises
from mifad_lite.records import read_record


def luck(lead, p, n, rivals):
    one = 2 * stats.norm.sf(lead, scale=math.sqrt(2 * p * (1 - p) / n))
    return -math.expm1(rivals * math.log1p(-one))


def winner(p, n, k):
    best = integrate.quad(lambda z: z * k * stats.norm.pdf(z) * stats.norm.cdf(z) ** (k - 1), -8, 8)[0]
    return p + math.sqrt(p * (1 - p) / n) * best


def mean_of_all(p, n, k):
    return np.random.default_rng(0).binomial(n, p, size=(5000, k)).mean() / n


def one_sided(lead, p, n, rivals):
    return 1 - (1 - stats.norm.sf(lead, scale=math.sqrt(2 * p * (1 - p) / n))) ** rivals


TENTH = read_record("cpu_run")["epochs"][9]["public_accuracy"]
ROW = {"claim": "c", "record": "cpu_run", "value": TENTH, "verdict": "cannot be decided"}
ROW["ours"] = f"{100 * TENTH:.1f} %"

CASES = {
    "ex-ruler": {
        "right": [lambda lead, p: int(-(-p * (1 - p) * 100 // lead**2))],
        "stub": lambda lead, p: ...,
        "wrong": {
            "not to a tenth of it": lambda lead, p: math.ceil(p * (1 - p) / lead**2),
            "has to be squared": lambda lead, p: math.ceil(10 * p * (1 - p) / lead**2),
            "smallest number": lambda lead, p: 100 * p * (1 - p) / lead**2 + 5.5,
        },
    },
    "ex-luck": {
        "right": [luck],
        "stub": lambda lead, p, n, rivals: None,
        "wrong": {
            "both tests vary": lambda lead, p, n, rivals: luck(lead * math.sqrt(2), p, n, rivals),
            "both tails": one_sided,
            "for one rival": lambda lead, p, n, rivals: luck(lead, p, n, 1),
            "do not add up": lambda lead, p, n, rivals: rivals * luck(lead, p, n, 1),
        },
    },
    "ex-winner": {
        "right": [winner],
        "stub": lambda p, n, k: ...,
        "wrong": {
            "mean of all networks": mean_of_all,
            "not a number of faces": lambda p, n, k: n * winner(p, n, k),
            "on average": lambda p, n, k: winner(p, n, k) + 0.004,
        },
    },
    "ex-ledger": {
        "right": [
            ROW,
            ROW | {"ours": f"{TENTH:.3f} of the faces"},
            ROW | {"value": 30, "ours": "all of its 30 epochs"},
        ],
        "stub": ...,
        "wrong": {
            "has no verdict": {key: ROW[key] for key in ROW if key != "verdict"},
            "verdict has to be one of": ROW | {"verdict": "true"},
            "no record": ROW | {"record": "nothing"},
            "does not stand in the record": ROW | {"value": 0.7},
            "does not show the number": ROW | {"ours": "it is good"},
        },
    },
}


@pytest.mark.parametrize("ours", ["after 10 epochs we saw what we saw", "0.6 of them", "70 % of 3,589", "1 in 2"])
def test_other_numbers_do_not_pass_for_the_one_of_the_record(ours, capsys):
    assert not exercises.check("ex-ledger", ROW | {"ours": ours})
    assert "does not show the number" in capsys.readouterr().out
