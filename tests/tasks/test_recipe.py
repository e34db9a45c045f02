"""A recipe changes with what decides bytes, and unfinished work is resumed only under the same one."""

import json
import os
import time
from types import SimpleNamespace

import pytest

from tasks import recipe as recipes
from tasks.errors import UserError
from tasks.params import PreprocessParams
from tasks.reading import wrapped
from tasks.recipe import recipe, unfinished
from tasks.shards import file_digest, read_index, seal
from tests.house import ROOT, STAGES


def made(tmp_path, name="raw", text="x", **params):
    raw = tmp_path / name
    raw.mkdir(exist_ok=True)
    (raw / "file").write_text(text)
    return recipe("preprocess", {"preprocess": PreprocessParams(**params)}, [seal(raw)])


def test_a_recipe_follows_params_and_inputs(tmp_path):
    one = made(tmp_path)
    assert made(tmp_path).digest == one.digest
    assert made(tmp_path, seed=1).differs_from(one.parts) == ["params.preprocess"]
    assert made(tmp_path, text="y").differs_from(one.parts) == ["input.raw"]
    assert recipe("preprocess", {}, environment={"device": "cpu"}).parts["device"] == "cpu"


def test_a_recipe_does_not_depend_on_the_place(tmp_path):
    (tmp_path / "other").mkdir()
    assert made(tmp_path).digest == made(tmp_path / "other").digest


@pytest.mark.parametrize("stage", STAGES)
def test_every_section_and_input_of_a_stage_counts(tmp_path, stage):
    """Also where both have the same name: `train` is a section, and a split that train reads."""
    folders = [tmp_path / d for d in STAGES[stage]["deps"] if d.startswith("data/")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text("x")
        seal(folder)
    sections = {name.split(".")[0]: {"seed": 0} for name in STAGES[stage]["params"]}
    one = recipe(stage, sections, folders)
    for name in sections:
        other = recipe(stage, {**sections, name: {"seed": 1}}, folders)
        assert other.differs_from(one.parts) == [f"params.{name}"]
    for folder in folders:
        (folder / "file").write_text("y")
        seal(folder)
        other = recipe(stage, sections, folders)
        assert other.differs_from(one.parts) == [f"input.{folder.name}"]
        one = other


@pytest.mark.parametrize("stage", STAGES)
def test_a_recipe_holds_the_code_that_dvc_lists(stage):
    parts = recipe(stage, {}, family="diffusion").parts
    listed = [d.replace("${train.family}", "diffusion") for d in STAGES[stage]["deps"]]
    expected = {d for d in listed if d.endswith(".py") and (ROOT / d).is_file()}
    assert f"flows/{stage}.py" in expected
    assert expected <= set(parts) <= set(listed)


def test_an_unsealed_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="not sealed"):
        recipe("preprocess", {}, [tmp_path])


def test_sealing_puts_the_work_in_place(tmp_path):
    out = tmp_path / "data/raw"
    made_by = made(tmp_path)
    for text in ("first", "second"):
        with unfinished(out, made_by) as work:
            (work.path / "a.txt").write_text(text)
            assert work.seal(fact=1) == out
        assert (out / "a.txt").read_text() == text
    assert sorted(f.name for f in out.iterdir()) == ["a.txt", "index.json"]
    assert read_index(out)["recipe"] == made_by.digest
    assert list((tmp_path / "data/.unfinished/preprocess").iterdir()) == []


def test_unfinished_work_is_kept_and_resumed_under_the_same_recipe_alone(tmp_path, caplog):
    out, made_by = tmp_path / "raw.out", made(tmp_path)

    def fail(how):
        with unfinished(out, how, resume=True) as work:
            (work.path / "half").write_text("x")
            raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        fail(made_by)
    assert not out.exists()
    with unfinished(out, made_by, resume=True) as work:
        assert (work.path / "half").exists()
    caplog.set_level("INFO", "mintage.recipe")
    with unfinished(out, made(tmp_path, seed=1), resume=True) as work:
        assert not (work.path / "half").exists()
    assert "differs in: params.preprocess" in caplog.text
    with unfinished(out, made_by) as work:
        assert not (work.path / "half").exists()


def test_two_at_the_same_work_do_not_mix(tmp_path):
    made_by = made(tmp_path)
    with unfinished(tmp_path / "out", made_by):
        second = unfinished(tmp_path / "out", made_by)
        with pytest.raises(UserError, match="another process"):
            second.__enter__()


def test_old_unfinished_work_is_removed(tmp_path):
    out = tmp_path / "out"
    old = tmp_path / ".unfinished/preprocess/0123"
    old.mkdir(parents=True)
    (old / "recipe.json").write_text(json.dumps({}))
    long_ago = time.time() - (recipes.KEPT_DAYS + 1) * 86_400
    os.utime(old, (long_ago, long_ago))
    with unfinished(out, made(tmp_path)) as work:
        work.seal()
    assert not old.exists()


def test_a_place_that_can_not_be_written_to(tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="writable"), unfinished(tmp_path / "data/raw", made(tmp_path)):
        pass


def test_a_full_disk_is_said_in_plain_words(tmp_path):
    with pytest.raises(UserError, match="No space left"), unfinished(tmp_path / "out", made(tmp_path)):
        raise OSError(28, "No space left on device")


def test_room_is_asked_for_before_work(tmp_path, monkeypatch):
    with unfinished(tmp_path / "out", made(tmp_path)) as work:
        work.require(1_000)
        monkeypatch.setattr(recipes.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        work.require(0.8e9)
        with pytest.raises(UserError, match=r"1,100\.0 MB are needed, and 1,000\.0 are free"):
            work.require(1e9)


def test_what_killed_writers_left_is_removed_and_whole_files_stay(tmp_path):
    made_by = made(tmp_path)
    with unfinished(tmp_path / "out", made_by) as work:
        (work.path / ".shard-00000.parquet.0123.partial").write_text("half")
        (work.path / "shard-00001.parquet").write_text("whole")
    with unfinished(tmp_path / "out", made_by, resume=True) as work:
        assert sorted(p.name for p in work.path.iterdir()) == ["recipe.json", "shard-00001.parquet"]


def test_other_code_than_the_recipe_says_is_refused(tmp_path):
    sound = made(tmp_path)
    sound.hold()
    with pytest.raises(UserError, match=r"another flows/preprocess\.py than this run"):
        recipes.Recipe("preprocess", {**sound.parts, "flows/preprocess.py": "0"}).hold()


@pytest.mark.parametrize("stage", ["train", "generate"])
def test_code_of_a_wrapped_family_is_part_of_the_recipe(stage):
    others = wrapped("breed", {"family": "gan"})
    assert others == ["gan"]
    assert wrapped("gan", {}) == []
    found = recipe(stage, {}, family="breed", wrapped=others).parts
    assert found["models/families/gan.py"] == file_digest(ROOT / "models/families/gan.py")
    assert found.keys() == recipe(stage, {}, family="breed").parts.keys() | {"models/families/gan.py"}
