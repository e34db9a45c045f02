"""The page as a reader has it: in Chromium, with real keys, on a phone, in the dark, without JavaScript."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests import browser, making
from tests.reports import report, rescore

DRAWN = 300
pytestmark = pytest.mark.skipif(
    browser.found() is None,
    reason="no Chromium here, so the report was not tried in one: apt install chromium, or set CHROMIUM",
)
FOCUS = "document.activeElement"
TILES = "document.querySelectorAll('#tiles button')"
OPEN = "document.getElementById('sample').open"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    why = [None if n % 5 else ("copied" if n % 2 else "unlike_label") for n in range(DRAWN)]
    data = making.stages(root / "data", drawn=DRAWN, reasons=why)
    rescore(
        data / "scores",
        probability=pa.array([None, *[(n * 7 % 300) / 300 for n in range(1, DRAWN)]], pa.float32()),
        in_manifold=pa.array([n % 3 == 0 for n in range(DRAWN)]),
        neighbours=pa.array([[f"train{(n + k) % 60:05d}" for k in range(3)] for n in range(DRAWN)]),
    )
    return report(data, root / "report") / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    started = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def shown(chromium, page):
    chromium.open(page)
    chromium.until(f"{TILES}.length")
    yield chromium
    assert chromium.errors == []


def text(shown, name):
    return " ".join(shown.js(f"document.getElementById({name!r}).innerText").split())


def labels(shown):
    return shown.js(f"[...{TILES}].map(tile => tile.getAttribute('aria-label'))")


def test_it_asks_nothing_of_the_network(shown, page):
    assert page.resolve().as_uri() in shown.asked
    assert {a for a in shown.asked if not a.startswith("data:")} == {page.resolve().as_uri()}


def test_filters_leave_the_samples_that_they_name(shown):
    assert text(shown, "count") == "All 300 samples"
    assert len(labels(shown)) == 120
    shown.choose("by-verdict", "dropped")
    assert text(shown, "count") == "60 of 300 samples"
    shown.choose("by-reason", "0")
    assert labels(shown) == [f"{making.CLASSES[n % 3]}, dropped: copied" for n in range(5, DRAWN, 10)]
    shown.choose("by-label", "1")
    assert text(shown, "count") == "10 of 300 samples"
    assert {label.split(",")[0] for label in labels(shown)} == {"line"}
    shown.choose("by-verdict", "kept")
    assert shown.js("document.getElementById('by-reason').disabled")
    assert text(shown, "count") == "80 of 300 samples"


def test_sorting_puts_what_was_not_measured_last(shown):
    shown.choose("by-score", "0")
    values = [label.rsplit(" ", 1)[1] for label in labels(shown)]
    assert [float(v) for v in values] == sorted(float(v) for v in values)
    assert float(values[0]) == round(1 / 300, 6)
    shown.choose("by-order", "down")
    assert labels(shown)[0].endswith(" 0.9967")
    shown.js("document.getElementById('later').click(); document.getElementById('later').click()")
    assert text(shown, "range") == "241 to 300"
    assert labels(shown)[-1].endswith(" –")


def test_a_click_tells_all_of_a_sample(shown):
    shown.js(f"{TILES}[5].click()")
    assert shown.js(OPEN)
    assert text(shown, "sample-name") == "row, dropped: copied"
    assert text(shown, "sample-place") == "6 of 300"
    assert "seed 5 id drawn00005 judge" in text(shown, "sample-facts")
    assert "bar: 50 %, line: 25 %, row: 25 %" in text(shown, "sample-facts")
    near = text(shown, "sample-near")
    assert [f"train{n:05d}" in near for n in (5, 6, 7, 8)] == [True, True, True, False]
    assert "probability 0.1167" in text(shown, "sample-scores")
    assert "in manifold no" in text(shown, "sample-scores")


def test_what_is_drawn_is_the_sample(shown):
    found = "document.querySelector('#sample-image canvas')"
    shown.js(f"{TILES}[7].click()")
    read = f"[...{found}.getContext('2d').getImageData(0, 0, 8, 8).data]"
    shown.until(f"{read}.some(value => value > 0)")
    drawn = np.array(shown.js(read)).reshape(8, 8, 4)[..., 0]
    labels_N = np.arange(DRAWN) % 3
    assert np.array_equal(drawn, making.pictures(labels_N, 4)[7, 0])


def test_keys_alone_reach_every_sample(shown):
    shown.js("document.getElementById('by-order').focus()")
    shown.choose("by-score", "0")
    shown.js("document.getElementById('by-order').focus()")
    shown.press("Tab")
    assert shown.js(f"{FOCUS} === {TILES}[0]")
    assert shown.js(f"getComputedStyle({FOCUS}).outlineStyle") == "solid"
    shown.press("ArrowRight", "ArrowDown", "ArrowLeft")
    assert shown.js(f"[...{TILES}].indexOf({FOCUS})") == 15
    assert shown.js(f"[...{TILES}].filter(tile => tile.tabIndex === 0).length") == 1
    shown.press("End", "ArrowRight")
    assert text(shown, "range") == "121 to 240"
    assert shown.js(f"{FOCUS} === {TILES}[0]")
    shown.press("Enter")
    assert shown.js(OPEN)
    shown.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert text(shown, "sample-place") == "122 of 300"
    shown.press("ArrowLeft", "ArrowLeft")
    assert text(shown, "sample-place") == "120 of 300"
    shown.press("Escape")
    shown.until(f"!({OPEN})")
    shown.until(f"[...{TILES}].indexOf({FOCUS}) === 119")  # it comes back a moment after the dialog closed
    assert text(shown, "range") == "1 to 120"
    shown.press("Tab")
    assert shown.js(f"{FOCUS}.id") == "later"


def test_a_reason_leads_to_all_of_its_samples(shown):
    shown.js("document.querySelector('a[data-reason=unlike_label]').click()")
    assert text(shown, "count") == "30 of 300 samples"
    assert {label.split(": ")[1] for label in labels(shown)} == {"unlike label"}


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_never_scrolls_sideways(chromium, page, width):
    chromium.open(page, width)
    chromium.until(f"{TILES}.length")
    chromium.js("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    assert chromium.js("document.documentElement.scrollWidth") <= width
    chromium.js(f"{TILES}[5].click()")
    assert chromium.js("(box => box.scrollWidth - box.clientWidth)(document.getElementById('sample'))") <= 0
    assert chromium.js("document.getElementById('sample').getBoundingClientRect().width") <= width


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_stands_out_from_its_ground(chromium, page, dark):
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for what is not text."""
    chromium.open(page, dark=dark)
    names = ["paper", "card", "ink", "soft", "edge", "real", "synthetic", "unfiltered", "random_drop",
             "real_synthetic", "first", "second", "third", "dropped"]  # fmt: skip
    script = "(style => %s.map(name => style.getPropertyValue('--' + name).trim()))"
    told = chromium.js(script % names + "(getComputedStyle(document.documentElement))")
    colour = dict(zip(names, (luminance(value) for value in told), strict=True))
    assert (colour["paper"] < colour["ink"]) == dark
    for ground in ("paper", "card"):
        for name in names[2:]:
            least = 4.5 if name in ("ink", "soft", "synthetic") else 3.0
            assert contrast(colour[name], colour[ground]) >= least, (name, ground)
    shade = np.asarray(Image.open(io.BytesIO(chromium.picture())).convert("L"))
    assert (np.median(shade) < 64) == dark


def luminance(value):
    shares = [int(value[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_without_scripts_all_but_the_gallery_is_there(chromium, page):
    chromium.open(page, script=False)
    chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "JavaScript is off" in chromium.js("document.getElementById('gallery').innerText")
    assert chromium.js("document.getElementById('browse').hidden")
    assert "coverage" in chromium.js("document.getElementById('measures').innerText")


def test_unlabelled_samples_can_be_browsed_too(chromium, tmp_path):
    data = making.stages(tmp_path / "data", classes=[])
    chromium.open(report(data, tmp_path / "report") / "report.html")
    chromium.until(f"{TILES}.length")
    assert chromium.js("document.getElementById('by-label').checkVisibility()") is False
    chromium.js(f"{TILES}[0].click()")
    assert text(chromium, "sample-name") == "no label, dropped: unsure"
    assert "undefined" not in text(chromium, "sample")
    assert chromium.errors == []
