"""Checks of chapter 12: the size of a test, luck, the winner's curse, a row of the ledger."""

import json
import math
import re

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from ..records import read_record
from . import Mistake, call, exercise, require

VERDICTS = ("holds", "does not hold", "cannot be decided", "cannot be tested")


def upper(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


@exercise("ex-ruler")
def ruler(answer):
    for lead, p in ((0.0102, 0.74), (0.05, 0.5)):
        found, right = call(answer, lead, p), 100 * p * (1 - p) / lead**2
        require(abs(found - right / 100) > 2, "this makes one standard error equal to the lead, not to a tenth of it")
        require(abs(found - right / 10) > 2, "the tenth has to be squared: n goes with one over the error squared")
        require(0 <= found - right < 1 and found == int(found), f"for {lead} at {p} not the smallest number enough")


@exercise("ex-luck")
def luck(answer):
    for lead, p, n, rivals in ((0.0102, 0.74, 3589, 1), (0.02, 0.7, 3589, 7), (0.01, 0.9, 3000, 3)):
        found, se = float(call(answer, lead, p, n, rivals)), math.sqrt(p * (1 - p) / n)
        z = lead / (math.sqrt(2) * se)

        def at_least_one(one, rivals=rivals):
            return 1 - (1 - one) ** rivals

        right = at_least_one(2 * upper(z))
        require(abs(found - at_least_one(2 * upper(lead / se))) > 1e-4, "both tests vary, not one: sqrt(2)")
        require(abs(found - at_least_one(upper(z))) > 1e-4, "a lead in either direction counts: both tails")
        require(rivals == 1 or abs(found - 2 * upper(z)) > 1e-4, "this is the chance for one rival, not for all")
        require(rivals == 1 or abs(found - rivals * 2 * upper(z)) > 1e-4, "chances of several rivals do not add up")
        require(abs(found - right) < 1e-4, f"for lead {lead}, p {p}, n {n}, rivals {rivals} the chance is {right:.4f}")


@exercise("ex-winner")
def winner(answer):
    nodes, weights = hermegauss(200)  # E[max of k] = integral of z k phi(z) Phi(z)^(k-1)
    below = np.array([1 - upper(z) for z in nodes])
    for p, n, k in ((0.74, 3589, 1), (0.74, 3589, 10), (0.6, 1000, 40)):
        found, se = float(call(answer, p, n, k)), math.sqrt(p * (1 - p) / n)
        right = p + se * k * (weights * nodes * below ** (k - 1)).sum() / math.sqrt(2 * math.pi)
        if abs(found - right) > 0.001:
            require(k == 1 or abs(found - p) > 0.001, "this is the mean of all networks, not the expected best")
            require(found <= 1, "return a share, not a number of faces")
            raise Mistake(f"for p {p}, n {n}, k {k} the best is {right:.4f} on average")


def shows(text: str, value: float) -> bool:
    """Whether a number in a sentence is the value, or its percentage, rounded to what is written there.

    One digit alone could be anything, so it counts for the whole number that it is, and for nothing else.
    """
    if float(text) == value:
        return True
    digits, significant = len(text.partition(".")[2]), len(text.replace(".", "").lstrip("-0"))
    return significant > 1 and text in {f"{factor * value:.{digits}f}" for factor in (1, 100)}


@exercise("ex-ledger")
def ledger(answer):
    require(isinstance(answer, dict), "a row is a dictionary")
    missing = [key for key in ("claim", "ours", "record", "value", "verdict") if key not in answer]
    require(not missing, f"the row has no {', '.join(missing)}")
    require(answer["verdict"] in VERDICTS, f"the verdict has to be one of: {', '.join(VERDICTS)}")
    try:
        record = read_record(answer["record"])
    except (OSError, ValueError) as error:
        raise Mistake(f"there is no record {answer['record']!r} to read ({error})") from None
    numbers: list[float] = []
    keep = lambda text: numbers.append(float(text))  # noqa: E731
    json.loads(json.dumps(record), parse_float=keep, parse_int=keep)
    value = answer["value"]
    require(value in numbers, f"{value} does not stand in the record: a ledger takes its numbers from records")
    texts = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", str(answer["ours"])))
    require(any(shows(text, value) for text in texts), "your sentence does not show the number (or its percentage)")
