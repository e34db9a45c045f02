"""params.yaml is read whole and strictly, and a mistake is named with its mend."""

import pytest
import yaml

from tasks.errors import UserError
from tasks.params import Machine, Params
from tasks.reading import check_families, parse, read
from tests.house import PARAMS, ROOT


def changed(tmp_path, **values):
    """A copy of params.yaml with `section__key=value` changes; the path of it."""
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    for where, value in values.items():
        *path, key = where.split("__")
        block = found
        for part in path:
            block = block.setdefault(part, {})
        block[key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def test_the_shipped_params_are_good():
    found = read(ROOT / "params.yaml")
    check_families(found)
    assert found.ingest.source == PARAMS["ingest"]["source"]
    assert found.family == found.families[found.train.family]


def test_sections_are_the_stages_and_four_more():
    from tests.house import STAGES

    assert set(Params.model_fields) == {*STAGES, "families", "gates", "machine", "schedule"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ingest__sourc": "x"}, ["ingest.sourc", "did you mean 'source'"]),
        ({"export__shardsize": 1}, ["export.shardsize", "did you mean 'shard_size'"]),
        ({"preprocess__split__tset": 0.1}, ["preprocess.split.tset", "did you mean 'test'"]),
        ({"preprocess__size": "28"}, ["preprocess.size", "'28'"]),
        ({"preprocess__size": 7}, ["preprocess.size", "7"]),
        ({"preprocess__condition": "grey"}, ["params.yaml: preprocess: condition grey of grey images"]),
        (
            {"preprocess__condition": "paired"},
            ["params.yaml: preprocess.condition: paired needs ingest.pairs"],
        ),
        ({"preprocess__channels": 2}, ["preprocess.channels", "2"]),
        ({"preprocess__split__test": 0.9}, ["preprocess.split", "add up to 1"]),
        ({"ingest__max_reject_fraction": 1.5}, ["ingest.max_reject_fraction"]),
        ({"generate__class_counts": {"a": -1}}, ["generate.class_counts"]),
        ({"evaluate__arms": ["real", "syntetic@3"]}, ["evaluate.arms", "'syntetic@3'", "try 'synthetic'"]),
        ({"evaluate__arms": ["unfiltered@3"]}, ["evaluate.arms", "unfiltered has no ratio"]),
        ({"evaluate__augment": ["flipp"]}, ["evaluate.augment.0", "'flipp'", "'flip'"]),
        ({"gates__accuracy": {}}, ["gates.accuracy", "min, max or both"]),
        ({"train__family": "gna"}, ["train.family", "'gna'", "diffusion"]),
        ({"ingest__source": "https://me:hush@host/a.zip"}, ["'https://***@host/a.zip'", "holds a login"]),
        (
            {"ingest__source": "https://host/a?sig=hush"},
            ["'https://host/a?sig=***'", "holds a login"],
        ),
        ({"schedule__timezone": "Mars/Olympus"}, ["schedule.timezone", "'Mars/Olympus'", "Europe/Berlin"]),
        ({"machin": {}}, ["machin", "did you mean 'machine'"]),
        ({"export": None}, ["export"]),
    ],
)
def test_mistakes_are_named(tmp_path, values, words):
    with pytest.raises(UserError) as caught:
        read(changed(tmp_path, **values))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert len(text.splitlines()) <= 6


def test_classes_that_yaml_reads_as_numbers_are_named(tmp_path):
    found = read(changed(tmp_path, generate__class_counts={3: 100, "cat": 2}))
    assert found.generate.class_counts == {"3": 100, "cat": 2}


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_files_that_are_no_params(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read(tmp_path / "params.yaml")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="not found"):
        read(tmp_path / "params.yaml")


def test_many_mistakes_are_counted():
    with pytest.raises(UserError, match="and 2 more"):
        parse(Machine, {f"wrong{n}": 1 for n in range(5)}, "x.yaml")


def test_a_family_block_without_a_family(tmp_path):
    with pytest.raises(UserError, match=r"families\.difusion.*did you mean 'diffusion'"):
        check_families(read(changed(tmp_path, families__difusion={})))
    with pytest.raises(UserError, match=r"families\.diffusion\.wdth"):
        check_families(read(changed(tmp_path, families__diffusion__wdth=1)))


def test_a_family_that_answers_a_condition_needs_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what was found sound is noted
    for condition in ("edges", "colours"):
        check_families(read(changed(tmp_path, train__family="pix2pix", preprocess__condition=condition)))
    with pytest.raises(UserError, match=r"families\.pix2pix .*: set preprocess\.condition"):
        check_families(read(changed(tmp_path, train__family="pix2pix")))


def test_a_family_that_paints_maps_needs_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = {"preprocess__condition": "paired", "ingest__pairs": "stem"}
    for given in ({"preprocess__condition": "colours"}, {**masks, "preprocess__mask": {"threshold": 128}}):
        check_families(read(changed(tmp_path, train__family="spade", **given)))
    for given in ({"preprocess__condition": "edges"}, masks):
        with pytest.raises(UserError, match=r"families\.spade .*: set preprocess\.condition to colours, or"):
            check_families(read(changed(tmp_path, train__family="spade", **given)))


def test_references_are_looked_for_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.references: .*styles: not found"):
        check_families(read(changed(tmp_path, train__references="styles")))
    (tmp_path / "styles").mkdir()
    with pytest.raises(UserError, match=r"train\.references: .*styles: holds no image"):
        check_families(read(changed(tmp_path, train__references="styles")))
    (tmp_path / "styles/one.png").write_bytes(b"")
    found = read(changed(tmp_path, train__references="styles", train__family="style"))
    check_families(found)
    with pytest.raises(UserError, match=r"train\.references: the family 'diffusion' takes none"):
        check_families(read(changed(tmp_path, train__references="styles")))


def test_params_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Machine().workers = 3


def test_sound_families_are_asked_about_once_until_they_change(tmp_path, monkeypatch):
    import models.families

    asked = []
    load = models.families.load
    monkeypatch.setattr(models.families, "load", lambda name: asked.append(name) or load(name))
    sound, params = tmp_path / "kept/families", read(ROOT / "params.yaml")
    for _ in range(2):
        check_families(params, sound)
    assert asked == [*sorted(params.families), params.train.family]
    with pytest.raises(UserError, match=r"families\.diffusion\.wdth"):
        check_families(read(changed(tmp_path, families__diffusion__wdth=1)), sound)
