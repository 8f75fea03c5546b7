"""Pages and records agree: every number in prose is what the committed record says, and nothing else."""

import importlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from operator import itemgetter

import pytest

import mifad_lite.__main__ as cli
from mifad_lite import PRESETS, load_network, profile, records, report
from mifad_lite.ablate import TABLES
from mifad_lite.checkpoint import weights_of
from mifad_lite.records import RESULTS, read_record


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


@pytest.mark.parametrize("status", [0, 1])
def test_the_command_runs_the_chapters_too(status, tmp_path, monkeypatch, capsys):
    (tmp_path / "book").mkdir()
    for name in ("01_one", "02_two"):
        (tmp_path / f"book/{name}.md").write_text(name)
    script = "import pathlib, sys\npathlib.Path(__file__).with_name(sys.argv[1] + '.ipynb').touch()\n"
    (tmp_path / "book/build_notebooks.py").write_text(script + f"sys.exit({status})\n")
    filled = []
    monkeypatch.setattr(report, "report", lambda: filled.append(1) or [])
    monkeypatch.setattr(report, "run_chapters", partial(report.run_chapters, tmp_path))
    out = tmp_path / "chapters.json"
    assert cli.main(["report", "--no-chapters"]) == 0
    assert not list(tmp_path.glob("book/*.ipynb"))
    assert cli.main(["report", "--out", str(out)]) == status
    assert len(list(tmp_path.glob("book/*.ipynb"))) == (1 if status else 2)
    assert len(filled) == (1 if status else 2), "a chapter that stops leaves the pages as they were"
    assert out.exists() != bool(status)
    if status:
        assert "01_one.md stopped" in capsys.readouterr().err
    else:
        record = json.loads(out.read_text())
        assert list(record["chapters"]) == ["01_one", "02_two"]
        assert record["seconds"] == pytest.approx(sum(record["chapters"].values()))
    assert cli.main(["report", "--no-chapters", "--out", str(out)]) == 1
    assert "leave --no-chapters out" in capsys.readouterr().err


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


@pytest.fixture
def reproduce(root):
    return (root / "book/reproduce.md").read_text("utf8")


def commands(text):
    """The shell commands of a page, one a line."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def parsed(command):
    """The options of a `python -m mifad_lite` line, by the parser that will read them; it exits where it cannot."""
    words = shlex.split(command)
    if words[1].startswith("tests/"):  # a script with a parser of its own
        return (
            importlib.import_module(words[1].removeprefix("tests/").removesuffix(".py"))
            .make_parser()
            .parse_args(words[2:])
        )
    assert words[:3] == ["python", "-m", "mifad_lite"], command
    return cli.make_parser().parse_args(words[3:])


def test_every_record_stands_on_the_page(reproduce):
    there = {path.stem for path in RESULTS.glob("*.json")}
    assert there <= report.RECORDS.keys(), "say in report.RECORDS what it is and which command writes it"
    for name in there:
        assert f"{{ref}}`{name} <record-" in reproduce
        assert f"\n### {name}\n" in reproduce
        assert f"\n```bash\n{report.command(name)}\n" in reproduce


@pytest.mark.parametrize("page", ["README.md", "book/run.md", "book/reproduce.md", "book/faults.md"])
def test_every_command_of_a_page_is_one(page, root):
    found = [line.split("  #")[0] for line in commands((root / page).read_text("utf8"))]
    assert any(line.startswith(("python -m mifad_lite", "python tests/")) for line in found)
    for line in found:
        if line.startswith(("python -m mifad_lite", "python tests/")):
            parsed(line)
        if line.startswith("python book/"):
            script, chapter = line.split()[1:]
            assert (root / script).exists()
            assert (root / "book" / f"{chapter}.md").exists()
        if line.startswith("cp "):
            assert re.fullmatch(r"cp runs/\w+/record\.json book/results/\w+\.json", line)


@pytest.mark.parametrize("name", [path.stem for path in sorted(RESULTS.glob("*.json"))])
def test_the_command_is_the_one_that_made_the_record(name, reproduce, root, monkeypatch):
    """What the command asks for, against what the record says it was made with."""
    record, args = read_record(name), parsed(report.command(name))
    source = getattr(args, "data", None)
    if source:
        assert record["data"]["name"] == ("drawn faces" if source.startswith("drawn") else "FER2013")
        assert record.get("drawn", source) == source
    if args.command != "train":
        assert args.out.as_posix() == f"book/results/{name}.json"

    if args.command == "train":
        seen = []
        monkeypatch.setattr(cli, "get_data", lambda source: None)
        monkeypatch.setattr(cli, "load_network", lambda path: (path, {}))
        nothing = {"best_public_accuracy": 0, "best_epoch": 0}
        monkeypatch.setattr(cli, "fit", lambda data, config, *a, **k: (seen.append(config), nothing))
        args.run(args)
        made, wanted = record["config"], seen[0].to_dict()
        assert within(made, wanted), "another run than the record's"
        assert len(record["epochs"]) <= made["epochs"]
        assert len(record.get("teachers", [])) == len(args.teacher)
        assert ("start" in record) == (args.start is not None)
        assert f"cp {args.out}/record.json book/results/{name}.json" in reproduce
    elif args.command == "evaluate":
        assert args.flip == record["flip"]
        assert args.int8 == record.get("int8", False)
        same_network(args.checkpoint, record["network"])
    elif args.command == "interpolate":
        assert args.steps == record["steps"]
    elif args.command == "inspect":
        assert max(record["occlusion"]["faces"]) == args.faces
        assert args.show == ("shown" in record)
        same_network(args.checkpoint, record["network"])
    elif args.command == "ablate":
        assert (args.profile, args.preset) == (record["profile"], record["preset"])
        base = profile(args.profile)
        changes = {k: v for k in ("epochs", "batch", "lr") if (v := getattr(args, k)) is not None}
        changes |= cli.computed(args)
        tables = list(TABLES) if "all" in args.table else args.table
        assert list(record["tables"]) == tables
        if args.preset:
            changes["network"] = PRESETS[args.preset].to_dict()
        assert within(record["base"], replace(base, **changes).to_dict() | {"seed": None})
        assert record["seeds"] == list(range(args.seeds))
    elif args.command == "report":
        assert args.chapters
        assert list(record["chapters"]) == [path.stem for path in sorted((root / "book").glob("[0-9][0-9]_*.md"))]
    elif args.command == "faults":
        assert [getattr(args, key) for key in ("draws", "slow", "seed")] == [
            record[k] for k in ("draws", "slow", "seed")
        ]
        assert not args.only
    elif args.command == "soak":
        assert [getattr(args, key) for key in ("epochs", "kills", "seed")] == [
            record[k] for k in ("epochs", "kills", "seed")
        ]
    elif args.command == "bench" and args.gates:
        assert args.repeats == record["repeats"]
    elif args.command == "bench" and not args.scaling and not args.graphs:
        assert (args.batch, args.steps, args.repeats) == (record["batch"], record["steps"], record["repeats"])


def test_the_average_lies_between_the_start_and_the_end_of_the_taught_run():
    line, taught = read_record("between"), read_record("taught_run")
    assert line["ends"][0] == taught["start"]
    assert line["ends"][1] != taught["start"]
    first, *_, last = (point["public_accuracy"] for point in line["points"])
    n = sum(read_record("fer2013")["counts"]["public"])
    few = 5 / n  # that rounding can turn between two ways of computing
    assert first == pytest.approx(read_record("flagship_run")["best_public_accuracy"], abs=few)
    assert last == pytest.approx(taught["best_public_accuracy"], abs=few)
    for name in ("between_evaluation", "between_evaluation_flip"):
        made = read_record(name)["network"]
        assert (made["ends"], made["share"]) == (line["ends"], line["best_share"])


def test_the_average_of_three_has_the_start_and_both_pupils():
    n = sum(read_record("fer2013")["counts"]["public"])
    few = 5 / n  # that rounding can turn between two ways of computing
    start, first, second = (read_record(f"{name}_run") for name in ("flagship", "taught", "taught_again"))
    pupils, three = read_record("between_pupils"), read_record("between_three")
    assert second["start"] == first["start"] == three["ends"][0]
    assert second["teachers"] == first["teachers"]
    assert second["seed"] != first["seed"]
    assert pupils["ends"][0] == read_record("between")["ends"][1]
    assert len({*pupils["ends"], *three["ends"]}) == 4

    def ends(line):
        return [line["points"][i]["public_accuracy"] for i in (0, -1)]

    best = max(point["public_accuracy"] for point in pupils["points"])
    assert ends(pupils) == pytest.approx([r["best_public_accuracy"] for r in (first, second)], abs=few)
    assert ends(three) == pytest.approx([start["best_public_accuracy"], best], abs=few)
    for name in ("three_evaluation", "three_evaluation_flip"):
        made = read_record(name)["network"]
        assert (made["ends"], made["share"]) == (three["ends"], three["best_share"])


PUBLIC = itemgetter("public_accuracy")


def test_the_walks_without_a_teacher_begin_and_end_where_the_page_says():
    """Each walk's ends are the networks that its command names, told by their weights or by what they are right on."""
    n = sum(read_record("fer2013")["counts"]["public"])
    few = 5 / n  # that rounding can turn between two ways of computing
    runs = {name: read_record(f"{name}_run") for name in ("untaught", "untaught_again", "whole")}
    walks = {name: read_record(name) for name in report.RECORDS if re.match(r"(untaught|whole)_walk", name)}
    start = runs["whole"]["start"]  # of all three, and of the walks that begin at the flagship
    assert {run["start"] for run in runs.values()} == {start}
    assert not any("teachers" in run for run in runs.values())
    assert [walk["ends"][0] == start for walk in walks.values()] == [True, False, True, True, False]
    first, second, whole = (walks[name]["ends"][1] for name in ("untaught_walk", "untaught_walk_two", "whole_walk"))
    assert walks["untaught_walk_two"]["ends"] == [first, second]
    assert walks["whole_walk_on"]["ends"][1] == whole
    assert len({start, first, second, whole}) == 4

    def ends(name):
        return [walks[name]["points"][i]["public_accuracy"] for i in (0, -1)]

    def summit(name):
        return max(point["public_accuracy"] for point in walks[name]["points"])

    best = {name: run["best_public_accuracy"] for name, run in runs.items()}
    assert ends("untaught_walk_two") == pytest.approx([best["untaught"], best["untaught_again"]], abs=2 * few)
    assert ends("untaught_walk_three")[1] == summit("untaught_walk_two")
    assert ends("whole_walk_on") == pytest.approx([summit("untaught_walk"), best["whole"]], abs=few)
    control = max(summit(name) for name in walks if name.startswith("untaught"))
    assert ends("whole_walk_on")[0] == control, "the last walk begins at the best place without a teacher"
    assert summit("whole_walk_on") == max(map(summit, walks)), "the private test was for the best place of all"
    twin, walk = read_record("windows_run"), read_record("windows_walk")
    assert (twin["start"], walk["ends"][0]) == (start, start)
    apart = {"augmentation": {**twin["config"]["augmentation"], "crop": 0}}
    assert runs["whole"]["config"] == {**twin["config"], **apart} != twin["config"]
    assert walk["points"][-1]["public_accuracy"] == pytest.approx(twin["best_public_accuracy"], abs=few)
    for name in ("whole_on_evaluation", "whole_on_evaluation_flip"):
        made = read_record(name)["network"]
        assert (made["ends"], made["share"]) == (walks["whole_walk_on"]["ends"], walks["whole_walk_on"]["best_share"])


def test_the_walks_with_more_noise_begin_and_end_where_the_page_says():
    few = 5 / sum(read_record("fer2013")["counts"]["public"])  # that rounding can turn
    run, walk, on = (read_record(name) for name in ("mixed_run", "mixed_walk", "mixed_walk_on"))
    before, whole = read_record("whole_walk_on"), read_record("whole_run")
    assert run["start"] == whole["start"] == walk["ends"][0]
    assert on["ends"][1] == walk["ends"][1] != before["ends"][1]
    assert on["ends"][0] not in (walk["ends"][0], *before["ends"]), "it begins at the average, and not at an end of it"
    for w, first in ((walk, read_record("whole_walk")["points"][0]), (on, max(before["points"], key=PUBLIC))):
        assert PUBLIC(w["points"][0]) == pytest.approx(PUBLIC(first), abs=few)
        assert PUBLIC(w["points"][-1]) == pytest.approx(run["best_public_accuracy"], abs=few)
    apart = {"epochs": 8, "lr": 0.001, "seed": 3, "mixup": 1.0}
    assert run["config"] == {**whole["config"], **apart}


def test_the_longer_run_with_more_noise_differs_in_its_length_alone():
    few = 8 / sum(read_record("fer2013")["counts"]["public"])  # that rounding can turn: one in bfloat16, one in float32
    run, before, walk = (read_record(name) for name in ("mixed_long_run", "mixed_run", "mixed_long_walk"))
    assert run["config"] == {**before["config"], "epochs": 2 * before["config"]["epochs"]}
    assert run["start"] == before["start"] == walk["ends"][0]
    assert len(run["epochs"]) == run["config"]["epochs"], "the run is whole"
    assert walk["points"][0] == read_record("mixed_walk")["points"][0]
    assert PUBLIC(walk["points"][-1]) == pytest.approx(run["best_public_accuracy"], abs=few)


def test_the_search_for_flat_ground_and_its_rival_differ_in_their_steps_alone():
    few = 8 / sum(read_record("fer2013")["counts"]["public"])  # that rounding can turn: one in bfloat16, one in float32
    flat, plain = read_record("flat_run"), read_record("plain_run")
    assert flat["config"] == {**plain["config"], "sam": 0.1}
    assert plain["config"]["sam"] == 0
    assert len(flat["epochs"]) == len(plain["epochs"]) == flat["config"]["epochs"]
    longer = read_record("plain_long_run")
    assert longer["config"] == {**plain["config"], "epochs": 12}, "a sharpness-aware step has two passes"
    assert len(longer["epochs"]) == 12
    assert longer["start"] == plain["start"]
    assert (flat["commit"], flat["start"]) == (plain["commit"], plain["start"])
    for run, walk in ((flat, read_record("flat_walk")), (plain, read_record("plain_walk"))):
        assert walk["ends"][0] == run["start"]
        assert walk["radius"] == flat["config"]["sam"]
        assert PUBLIC(walk["points"][0]) == pytest.approx(PUBLIC(read_record("mixed_walk")["points"][0]), abs=few)
        assert PUBLIC(walk["points"][-1]) == pytest.approx(run["best_public_accuracy"], abs=few)
    assert read_record("flat_walk")["points"][0] == read_record("plain_walk")["points"][0]


def test_the_weights_that_pay_the_price_are_those_that_were_counted():
    net, meta = load_network(RESULTS / "plain_long.safetensors")
    run, end = read_record("plain_long_run"), read_record("plain_long_end")
    assert end["ends"] == [run["start"], weights_of(net)]
    assert (meta["epoch"], meta["public_accuracy"]) == (run["best_epoch"], run["best_public_accuracy"])
    few = 8 / sum(read_record("fer2013")["counts"]["public"])
    assert PUBLIC(end["points"][1]) == pytest.approx(run["best_public_accuracy"], abs=few)


def test_what_chapter_13_says_of_all_its_runs_and_places():
    """One run alone stands above its start, from the sixth epoch on; the middle of two has the lowest cross-entropy."""
    start = read_record("flagship_run")["best_public_accuracy"]
    runs = {n: read_record(n) for n in report.recorded() if n.endswith("_run") and "start" in read_record(n)}
    above = {n: [e["epoch"] for e in r["epochs"] if e["public_accuracy"] > start] for n, r in runs.items()}
    assert len(runs) > 8
    assert {n: epochs for n, epochs in above.items() if epochs} == {"plain_long_run": [*range(6, 13)]}
    walks = [r for n in report.recorded() if (r := read_record(n))["kind"] == "interpolate"]
    lowest = min(p["public_loss"] for walk in walks for p in walk["points"])
    assert lowest == read_record("soup_two")["points"][1]["public_loss"]


def test_the_soup_is_of_the_three_ends_that_the_page_names():
    two, three, walk = (read_record(f"soup_{name}") for name in ("two", "three", "walk"))
    ends = [read_record(f"{name}_walk")["ends"][1] for name in ("plain", "flat", "mixed_long")]
    assert two["ends"] == ends[:2]
    assert three["ends"][1] == ends[2]
    assert walk["ends"][0] == read_record("flat_run")["start"]
    assert (two["steps"], three["steps"], walk["steps"]) == (2, 3, 4)
    for before, after, at in ((two, three, 0), (three, walk, -1)):
        chosen = next(p for p in before["points"] if p["share"] == before["best_share"])
        assert after["points"][at] == {**chosen, "share": after["points"][at]["share"]}, "one soup goes into the next"
    assert two["points"][-1]["public_accuracy"] == read_record("flat_walk")["points"][-1]["public_accuracy"]


def within(made, wanted):
    """A record's configuration agrees with today's; it may lack a field that came later."""
    return all(within(v, wanted[k]) if isinstance(v, dict) else wanted[k] == v for k, v in made.items())


def same_network(checkpoint, stored):
    """The checkpoint is the one that the record is about. A run's own folder is not there to look into."""
    if checkpoint.as_posix() in ("lite", "drawn", "flagship"):
        _, meta = load_network(checkpoint)
        assert {k: meta[k] for k in stored} == stored


def test_what_to_expect_is_in_the_records(reproduce):
    rows = dict(re.findall(r"^\| \{ref\}`(\w+) <[\w-]+>` \| (.*) \|$", reproduce, re.MULTILINE))
    assert list(rows) == list(report.recorded())
    for name, cells in rows.items():
        record = read_record(name)
        _, minutes, seed, date = cells.rsplit(" | ", 3)
        assert record["date"].startswith(date)
        if "seconds" in record and record["seconds"] >= 60:
            assert abs(60 * int(minutes.replace(",", "")) - record["seconds"]) <= 30
        if "seed" in record:
            assert seed == str(record["seed"])
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^\(record|\Z)", reproduce, re.DOTALL | re.MULTILINE))
    for name, text in sections.items():
        record = read_record(name)
        assert f"`{record['commit']}` on {record['device']}." in text
        if record["kind"] == "evaluate":
            counts = record["splits"]["private"]["whole"]["confusion"]
            hits, n = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
            assert f"{hits:,} hits of {n:,}" in text


def test_the_page_is_right_about_gpus(reproduce):
    """A processor's name comes with its number of threads, a GPU's does not."""
    on_gpu = [path.stem for path in RESULTS.glob("*.json") if " thread" not in read_record(path)["device"]]
    assert bool(on_gpu) != ("Nothing has been measured on a GPU yet" in reproduce)


def test_a_record_appears_as_soon_as_its_file_is_there(tmp_path, monkeypatch):
    assert "resnet_run" in report.RECORDS
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    for module in (records, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / "resnet_run.json").unlink(missing_ok=True)
    assert "resnet_run" not in report.values()["records.table"]
    shutil.copy(tmp_path / "cpu_run.json", tmp_path / "resnet_run.json")
    numbers = report.values()
    assert "{ref}`resnet_run <record-resnet-run>`" in numbers["records.table"]
    assert "--arch resnet18" in numbers["records.commands"]


def test_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"r:no\.such"):
        report.fill("<!--r:no.such-->1<!--/r-->", {"run.epochs": "30"})


def test_fill_replaces_old_numbers_and_is_idempotent():
    once = report.fill("a <!--r:x-->1<!--/r--> b <!--r:y--><!--/r-->", {"x": "2", "y": "3"})
    assert once == "a <!--r:x-->2<!--/r--> b <!--r:y-->3<!--/r-->"
    assert report.fill(once, {"x": "2", "y": "3"}) == once
