"""What a run wants otherwise is written into params.yaml as data, and is nothing else but data."""

import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.overriding import changes, override, parsed, seed
from tests.house import PARAMS, ROOT, STAGES

DUE = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
# What a shell, DVC's templates or YAML could take for more than words.
NASTY = st.sampled_from(
    ["$(touch evil)", "`touch evil`", "; touch evil", "${train.seed}", "!!python/none", "#", "\n"]
)
TEXT = st.lists(NASTY | st.text(max_size=5), min_size=1, max_size=4).map("".join)


@pytest.fixture
def path(tmp_path):
    return shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")


def test_only_the_named_keys_change_and_comments_stay(path):
    override(path, {"train.images": 7, "gates.kept_ratio.min": 0.25, "generate.seed": 5})
    before = (ROOT / "params.yaml").read_text().splitlines()
    after = path.read_text().splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ("  images: 140000", "  images: 7"),
        ("  seed: 0", "  seed: 5"),
        ("  kept_ratio: {min: 0.5}", "  kept_ratio: {min: 0.25}"),
    ]


def test_sections_that_are_null_or_have_dots_in_their_names(path):
    override(path, {"gates": {"accuracy.real.mean": {"min": 0.5}}, "filter.dark.share": 0.1})
    override(path, {"gates.accuracy.real.mean.max": 0.9})
    found = yaml.safe_load(path.read_text())
    assert found["gates"] == {"accuracy.real.mean": {"min": 0.5, "max": 0.9}}
    assert found["filter"]["dark"] == {"share": 0.1}


def test_no_changes_leave_the_file_alone(path):
    path.write_text("not: [even yaml")
    override(path, {})


@pytest.mark.parametrize(
    "text", ["", "- a list", "train: [", "train: {a: 2026-02-30}", "a: !!int x", "[" * 3_000, "a: 1\na: 2"]
)
def test_a_broken_file_is_told(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: "):
        override(path, {"train.images": 7})


def test_a_key_that_leads_through_a_value_is_told(path):
    with pytest.raises(UserError, match=r"overrides\.train\.seed\.x: seed holds 0, not a section"):
        override(path, {"train.seed.x": 1})


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(
        ["no", "yes", "on", "12:30", "1e-5", "0x1f", "1_000", "null", "~", "2026-11-22", "<<", "="]
    )
    | st.text(max_size=8)
)


@given(value=VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
@example(value=1e-05)
@example(value=1e22)
@example(value="\x85x")
@example(value="?0")
def test_a_value_is_read_as_it_was_given(tmp_path_factory, value):
    """It is written by ruamel, after YAML 1.2, and read by PyYAML, after 1.1."""
    path = tmp_path_factory.mktemp("read") / "params.yaml"
    path.write_text("export: {license: other}\n")
    override(path, {"export.license": value})
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["export"]["license"]
    assert (found, type(found)) == (value, type(value))


SHARED = """\
filter:
  copied: &x {share: 0.002}
  duplicate: *x
  outlier:
    <<: *x
"""


@pytest.mark.parametrize("name", ["copied", "duplicate", "outlier"])
def test_an_anchor_changes_no_other_key(tmp_path, name):
    path = tmp_path / "params.yaml"
    path.write_text(SHARED)
    before = yaml.safe_load(SHARED)["filter"]
    override(path, {f"filter.{name}.share": 0.1})
    assert yaml.safe_load(path.read_text())["filter"] == {**before, name: {"share": 0.1}}


def test_fresh_is_the_same_seed_for_the_same_night():
    elsewhere = DUE.astimezone(timezone(timedelta(hours=9)))
    assert changes({"train.images": 9}, DUE) == {"train.images": 9, "generate.seed": seed(DUE)}
    assert seed(elsewhere.replace(microsecond=7)) == seed(DUE)
    assert len({seed(DUE + timedelta(days=n)) for n in range(400)}) == 400
    assert all(0 <= seed(DUE + timedelta(days=n)) < 2**31 for n in range(400))
    assert changes({"train.images": 9}, None) == {"train.images": 9}


def test_two_seeds_are_one_too_many():
    with pytest.raises(UserError, match=r"generate\.seed and fresh"):
        changes({"generate.seed": 1}, DUE)


def test_pairs_of_a_command_line():
    assert parsed(["train.images=9", "evaluate.arms=[real]", "ingest.source=a=b", "generate.steps="]) == {
        "train.images": 9,
        "evaluate.arms": ["real"],
        "ingest.source": "a=b",
        "generate.steps": None,
    }
    for wrong in ("train.images", "evaluate.arms=[", "", "a=2026-02-30", "a=!!int x", "a=" + "[" * 3_000):
        with pytest.raises(UserError, match="KEY=VALUE"):
            parsed([wrong])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A project of DVC's whose params can be changed, with the shipped dvc.yaml."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("tree")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    with Repo.init(str(root), no_scm=True) as repo:
        yield repo


@settings(max_examples=40, deadline=None)
@given(
    value=TEXT,
    key=st.sampled_from(["ingest.source", "export.license", "preprocess.group_by", "train.family"]),
)
def test_no_override_can_become_a_command(tree, value, key):
    from dvc.parsing import DataResolver

    path = Path(tree.root_dir) / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    override(path, {key: value})
    section, name = key.split(".")
    assert yaml.safe_load(path.read_text()) == {**PARAMS, section: {**PARAMS[section], name: value}}
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    resolved = DataResolver(tree, tree.root_dir, written).resolve()["stages"]
    assert {stage: found["cmd"] for stage, found in resolved.items()} == {
        stage: f"python -m flows.{stage}" for stage in STAGES
    }
