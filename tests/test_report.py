"""Pages and records agree: every number in prose is what the committed record says, and nothing else."""

import json
import re

import pytest

from mifad_lite import report
from mifad_lite.records import RESULTS


@pytest.mark.parametrize("page", report.PAGES)
def test_page_agrees_with_the_records(root, page):
    text = (root / page).read_text()
    assert report.MARKER.search(text), "a page in PAGES has markers"
    assert report.fill(text, report.values()) == text, f"run `python -m mifad_lite report` and commit {page}"


@pytest.mark.parametrize("page", report.PAGES)
def test_inline_markers_do_not_start_a_line(root, page):
    """A line that starts with a comment is an HTML block in Markdown and tears its paragraph apart."""
    for line in (root / page).read_text().splitlines():
        assert not re.match(r"<!--r:[\w.]+-->.", line), line


def test_accuracies_come_from_the_confusion_matrix():
    """The number that pages print, computed again from the counts in the evaluation's record."""
    numbers = report.values()
    for key, name in (("plain", "cpu_evaluation"), ("flip", "cpu_evaluation_flip")):
        for part in ("whole", "twin_free"):
            counts = json.loads((RESULTS / f"{name}.json").read_text())["splits"]["private"][part]["confusion"]
            hits, n = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
            assert numbers[f"{key}.private.{part}"] == f"{100 * hits / n:.2f} %"


def test_records_name_their_origin():
    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{12}", record["commit"]), f"{path.name} was not made from a clean commit"
        assert {"device", "date", "data", "versions", "kind"} <= record.keys(), path.name


def test_evaluations_are_of_the_run_that_ships():
    """Same data, and the public accuracy that chose the epoch is the one that the evaluation finds again."""
    run = json.loads((RESULTS / "cpu_run.json").read_text())
    evaluation = json.loads((RESULTS / "cpu_evaluation.json").read_text())
    assert evaluation["data"] == run["data"]
    assert evaluation["network"]["epoch"] == run["best_epoch"]
    # training evaluates in bfloat16, `evaluate` in float32: a few faces out of 3,589 may differ
    assert abs(evaluation["splits"]["public"]["whole"]["accuracy"] - run["best_public_accuracy"]) < 0.005


def test_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"r:no\.such"):
        report.fill("<!--r:no.such-->1<!--/r-->", {"run.epochs": "30"})


def test_fill_replaces_old_numbers_and_is_idempotent():
    once = report.fill("a <!--r:x-->1<!--/r--> b <!--r:y--><!--/r-->", {"x": "2", "y": "3"})
    assert once == "a <!--r:x-->2<!--/r--> b <!--r:y-->3<!--/r-->"
    assert report.fill(once, {"x": "2", "y": "3"}) == once
