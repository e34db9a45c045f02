import base64
import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from tasks import reporting
from tasks.errors import UserError
from tasks.probing import Outcome, Trial
from tasks.reporting import charts, pictures, words
from tests import making
from tests.house import ROOT
from tests.reports import PARAMS, Page, gathered, report, rescore

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return making.stages(tmp_path_factory.mktemp("reporting") / "data")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    return report(data, tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_page_needs_nothing_but_itself(folder, page):
    assert page.open == []
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "data:image/webp;base64,", "#", "data:,"))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= page.ids
    text = (folder / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert "eval(" not in text
    assert "http" not in re.sub("http-equiv", "", text)


def test_page_tells_the_headline_numbers_measures_and_lineage(page):
    assert words.ARMS.keys() >= set(PARAMS.arms)
    for told in (
        "Adding the synthetic images to the real ones helps: +33.33 points [",
        "] over 2 seeds, from 62.50 % to 95.83 %", "2 seeds are an indication, a claim takes 5",
        "62.50 %",  # real, mean
        "75.00 %",  # synthetic
        "copied · 6", "unsure · 6", "coverage", "after 2,000 images", "recipe of synthetic", "seeds: 2",
    ):  # fmt: skip
        assert told in page.text, told


def test_page_shows_real_beside_synthetic_and_copies_beside_their_twins(page):
    strips = 3 * 2 * 8
    dropped = 6 + 6 * 2
    grids = 2
    assert page.images == strips + dropped + grids


def test_numbers_are_files_that_dvc_plots(folder):
    accuracy = rows(folder / "accuracy.csv")
    assert [(r["arm"], r["seed"]) for r in accuracy[:3]] == [
        ("real", "0"),
        ("real", "1"),
        ("synthetic", "0"),
    ]
    assert float(accuracy[0]["accuracy"]) == 0.75
    confusion = rows(folder / "confusion.csv")
    assert len(confusion) == 2 * 36
    assert sum(r["actual"] != r["predicted"] for r in confusion) == 18
    assert {r["images"] for r in rows(folder / "curves.csv")} == {"40.0", "80.0"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"]["real_synthetic"]["per_seed"] == [1.0, 0.916667]
    assert rows(folder / "classes.csv")[0].keys() == {"class", "real", "synthetic"}
    assert [r["class"] for r in rows(folder / "classes.csv")] == making.CLASSES
    assert {r["measure"]: r["before"] for r in rows(folder / "measures.csv")}["frechet_distance"] == "3.5"
    assert rows(folder / "rejected.csv") == [
        {"reason": "copied", "samples": "6"}, {"reason": "unsure", "samples": "6"}
    ]  # fmt: skip


def test_dvc_plots_columns_that_the_report_writes(folder):
    """A template of numbers shows nothing where the x axis has names."""
    plots = [(what, how) for plot in DVC["plots"] for what, how in plot.items()]
    ours = [(what, how, path) for what, how in plots for path in how["y"] if path.startswith("data/report/")]
    assert {"accuracy", "accuracy per class", "set measures", "samples dropped"} <= {o[0] for o in ours}
    for what, how, path in ours:
        table = rows(folder / path.removeprefix("data/report/"))
        columns = how["y"][path] if isinstance(how["y"][path], list) else [how["y"][path]]
        assert {how["x"], *columns} <= table[0].keys(), what
        if not table[0][how["x"]].replace(".", "").isdigit() and how["template"] != "confusion":
            encoding = json.loads((ROOT / f".dvc/plots/{how['template']}.json").read_text())["encoding"]
            assert encoding["x"]["type"] == "nominal", what


def test_intervals_and_the_recommendation_are_told_where_they_are_given(data, tmp_path):
    def add(metrics):
        span = {"low": 0.70, "high": 0.86}
        metrics["accuracy"]["synthetic"] |= span | {"per_class_interval": {"bar": span}}
        metrics["accuracy"]["real_synthetic@0.5"] = metrics["accuracy"]["real_synthetic"]
        metrics["difference"]["synthetic_minus_real"] |= {"low": -0.01, "high": 0.2}
        metrics["recommendation"] = {"ratio": 0.5, "chosen_on": "calibrate", "why": "It is best."}

    text = (report(data, tmp_path / "report", more=add) / "report.html").read_text()
    page = Page(text)
    for told in (
        "a line the 95 % interval", "70.00 to 86.00", "[−1.00, +20.00]", "real + synthetic, 0.5 ×",
        "Recommended: 0.5 synthetic images for each real one, chosen on the calibrate split. It is best.",
    ):  # fmt: skip
        assert told in page.text, told
    assert 'class="span ' in text
    assert "var(--real_synthetic@" not in text


def test_set_measures_are_told_with_all_that_the_scores_say_of_them(data, tmp_path):
    splits = gathered(data)
    found = dict(splits.measures) | {
        "interval": {"after": {"coverage": {"low": 0.81, "high": 0.89}}},
        "per_class": {"bar": {"samples": 20, "kept": 15, "before": {"coverage": float("nan")}}},
        "set_notes": ["Recall needs more samples."],
        "shortage": {"row": {"lacks": 4, "oversample": 1.25}, "bar": {"lacks": 0}},
        "extractors": {"lite0": {"before": None, "note": "its weights are not here."}},
    }
    text = (
        report(data, tmp_path / "report", splits=replace(splits, measures=found)) / "report.html"
    ).read_text()
    for told in (
        "0.81 to 0.89", "Recall needs more samples.", "Each class, before and after",
        "In the features of lite0", "Its weights are not here.",
        "Left short by the filter: class row by 4 (generate.oversample: 1.25 would do).",
    ):  # fmt: skip
        assert told in Page(text).text, told
    assert "nan" not in Page(text).text.split()


def test_same_bytes_twice(data, folder, tmp_path):
    again = report(data, tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_unlabelled_images_have_set_measures_and_one_line(tmp_path):
    data = making.stages(tmp_path / "data", classes=[])
    page = Page((report(data, tmp_path / "report") / "report.html").read_text())
    assert page.text.count("Accuracy needs labels") == 1
    assert (
        "48 of 60 samples were kept; against real images they measure frechet distance 3, "
        "kernel distance 0.02" in page.text
    )
    assert "coverage" in page.text
    assert page.images == 2 * 8 + 6 + 6 * 2 + 2
    assert rows(tmp_path / "report/accuracy.csv") == []


def test_class_names_cannot_break_the_page(data, tmp_path):
    splits = gathered(data)
    names = ["<script>alert(1)</script>", "a&b", "</main>"]
    text = (
        report(data, tmp_path / "report", splits=replace(splits, classes=names)) / "report.html"
    ).read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == 2
    assert Page(text).open == []
    block = re.search(r'<script type="application/json" id="samples">(.*?)</script>', text, re.S)[1]
    assert json.loads(block)["classes"] == names


def test_axis_holds_its_values_between_round_ticks():
    found = charts.axis([0.931, 0.944, 0.957], 0.02)
    assert found.ticks == (0.93, 0.94, 0.95, 0.96)
    assert found.at(0.945) == pytest.approx(50)
    alike = charts.axis([1.0, 1.0], 0.02)
    assert alike.ticks[0] == 0.98
    assert alike.ticks[-1] == 1.0
    assert len(set(alike.marks("g", 100))) == len(alike.ticks)


def test_axis_and_rows_hold_intervals():
    found = {"per_seed": [0.9, 0.92], "mean": 0.91, "low": 0.8, "high": 0.99}
    drawn = charts.dots({"real": found, "synthetic": {"per_seed": [0.9], "mean": 0.9}})
    at, wide = drawn["rows"][0]["span"]
    assert at < min(drawn["rows"][0]["dots"])
    assert at + wide > max(drawn["rows"][0]["dots"])
    assert drawn["rows"][1]["span"] is None
    assert charts.interval([0.1, None]) is None
    assert charts.interval({"low": 0.1, "high": float("nan")}) is None
    assert charts.interval((0.1, 0.2)) == (0.1, 0.2)


def test_arms_of_one_base_share_a_colour_but_not_a_dash():
    found = charts.marks(["real", "synthetic", "synthetic@3", "real_augmented", "synthetic_soft"])
    assert found["synthetic"]["hue"] == found["synthetic@3"]["hue"] == "synthetic"
    assert found["synthetic"]["dash"] != found["synthetic@3"]["dash"]
    assert len({mark["hue"] for mark in found.values()}) == 4


def test_curves_start_at_no_images_and_keep_their_order():
    drawn = charts.curves({"a": [(0, 2.0), (50, 1.0), (100, 0.0)]})
    assert drawn["lines"]["a"] == "0,0 50,50 100,100"
    assert charts.curves({"a": []}) is None


def test_loss_curve_is_averaged_down(tmp_path):
    path = tmp_path / "loss.csv"
    path.write_text("images,loss,rate\n" + "".join(f"{n},{n % 2},1\n" for n in range(1, 1001)))
    points = reporting.loss_curve(path, most=10)
    assert len(points) == 10
    assert [round(y, 2) for _, y in points] == [0.5] * 10
    path.write_text("images,rate\n1,2\n")
    with pytest.raises(UserError, match=re.escape(str(path))):
        reporting.loss_curve(path)


def test_health_of_draws_is_drawn_where_there_is_any(data, page, tmp_path):
    found = reporting.health_curves(data / "checkpoint/health.csv")
    assert list(found.values()) == [[(1000, 75), (2000, 80)], [(1000, 50)]]
    assert "real images covered" in page.text
    assert reporting.health_curves(tmp_path / "health.csv") == {}


def test_confusion_counts_rows_for_columns(data):
    splits = gathered(data)
    truth = splits.test.y
    found = Outcome(Trial("synthetic", 0), 1, np.where(truth == 0, 2, truth), [])
    assert reporting.confusion(splits, [found, found]) == [[0, 0, 24], [0, 24, 0], [0, 0, 24]]
    assert reporting.confusion(splits, []) is None


def test_large_images_are_shown_small():
    x = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype=np.uint8)
    shown = Image.open(io.BytesIO(base64.b64decode(pictures.thumb(x).split(",")[1])))
    assert shown.size == (64, 64)
    small = Image.open(io.BytesIO(base64.b64decode(pictures.thumb(x[:, :8, :8]).split(",")[1])))
    assert np.array_equal(np.asarray(small), np.moveaxis(x[:, :8, :8], 0, -1))


def test_a_copy_stands_beside_what_it_is_most_like_and_a_duplicate_beside_what_it_repeats(tmp_path):
    why = [None] * 60
    why[4], why[9], why[20] = "copied", "copied", "duplicate"
    data = making.stages(tmp_path / "data", reasons=why)
    likest = pa.array([None] * 9 + ["train00033"] + [None] * 50)
    rescore(data / "scores", nearest_copy=likest, duplicate_of=pa.array(["drawn00002"] * 60))
    splits = gathered(data)
    found = {group["reason"]: group["samples"] for group in pictures.rejected(splits, data / "scores")}
    assert [s["twin"] for s in found["copied"]] == [pictures.thumb(splits.train.x[n]) for n in (4, 33)]
    assert [s["twin"] for s in found["duplicate"]] == [pictures.thumb(splits.synthetic.x[2])]
