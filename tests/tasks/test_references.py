"""Images of reference: read once by training, kept as styles, and told wherever samples go."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.families import style
from tasks import fitting, references, sampling
from tasks.errors import UserError
from tasks.fitting import training
from tasks.fitting.training import Training
from tasks.layout import NO_REFERENCES
from tasks.params import GenerateParams, TrainParams
from tasks.sampling import planning
from tasks.shards import Shards, seal
from tests import making, pictures
from tests.house import ROOT
from tests.tasks.fitting.training import DEVICE


@pytest.fixture
def folder(tmp_path):
    return pictures.write(
        tmp_path / "styles", {"b/2.png": pictures.picture(2), "1.png": pictures.picture(1), "note.txt": b"x"}
    )


def test_images_are_found_at_any_depth_in_order(folder):
    assert [p.relative_to(folder).as_posix() for p in references.files(folder)] == ["1.png", "b/2.png"]
    x_RCHW = references.read(folder, 1, 8)
    assert x_RCHW.shape == (2, 1, 8, 8)
    assert x_RCHW.dtype == np.uint8
    assert references.read(folder, 3, 16).shape == (2, 3, 16, 16)


def test_a_tracked_file_says_that_there_are_none():
    assert (ROOT / NO_REFERENCES).is_file()
    assert references.read(NO_REFERENCES, 3, 16).shape == (0, 3, 16, 16)


def test_what_can_t_be_references_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (folder / "bad.png").write_bytes(b"not a picture")
    for path, said in (("empty", "holds no image"), ("gone", "not found"), ("styles/1.png", "is no folder")):
        with pytest.raises(UserError, match=rf"train\.references: .*{path}: {said}"):
            references.files(tmp_path / path)
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        references.read(folder, 3, 16)
    monkeypatch.setattr(references, "MOST", 2)
    with pytest.raises(UserError, match="holds 3 images, and 2 at most"):
        references.files(folder)


def test_the_digest_is_that_of_names_and_bytes(folder):
    first = references.digest(folder)
    (folder / "note.txt").write_bytes(b"y")
    assert references.digest(folder) == first
    (folder / "1.png").write_bytes(pictures.picture(3))
    second = references.digest(folder)
    (folder / "1.png").rename(folder / "3.png")
    assert len({first, second, references.digest(folder), references.digest(NO_REFERENCES)}) == 4


def trained(tmp_path, given, **block):
    """A checkpoint of `style` that was hardly trained, or not at all, and the split it was given."""
    real = making.real(tmp_path / "train", 6, seed=1)
    out = tmp_path / "checkpoint"
    out.mkdir()
    params = TrainParams(family="style", references=str(given), images=16, batch=16, precision="fp32")
    held = Training(real, params, block, DEVICE)
    if held.family.TRAINS:
        held.step()
    fitting.keep(out, held.averaged())
    (out / "grids").mkdir()
    fitting.write_checkpoint(out, held)
    return seal(out), real


def drawn(tmp_path, checkpoint, real, **params):
    plan = planning.plan(GenerateParams(num_samples=6, batch=6, **params), checkpoint, real)
    out = tmp_path / "synthetic"
    out.mkdir()
    sampling.draw_shard(0, plan, checkpoint, real, out, DEVICE)
    seal(out, **plan.describe(DEVICE))
    return plan, Shards.open(out).table(["label", "source_ids", "family_score", "image"]).to_pylist()


def test_styles_of_references_go_with_the_checkpoint(tmp_path, folder):
    checkpoint, real = trained(tmp_path, folder, width=8)
    facts = json.loads((checkpoint / "checkpoint.json").read_text())
    assert facts["references"] == 2
    assert facts["config"]["features"] == "efficientnet_lite0"
    kept = load_file(checkpoint / "model.safetensors")["styles_RD"]
    family = planning.build(facts, checkpoint)
    x_RCHW = torch.from_numpy(references.read(folder, 1, 8)).float() / 127.5 - 1
    assert torch.allclose(kept, family.styles(family.seen(x_RCHW)), rtol=1e-3, atol=1e-3)
    for path in folder.rglob("*.png"):
        path.unlink()  # generate has no need of them
    plan, rows = drawn(tmp_path, checkpoint, real)
    assert plan.parents == 1
    assert {len(row["source_ids"]) for row in rows} == {1}
    labels = dict(zip(*(Shards.open(real).table([n])[n].to_pylist() for n in ("id", "label")), strict=True))
    assert all(labels[row["source_ids"][0]] == row["label"] for row in rows)


def test_without_references_both_parents_are_named_and_of_the_sample_s_class(tmp_path):
    checkpoint, real = trained(tmp_path, NO_REFERENCES, method="optimise")
    facts = json.loads((checkpoint / "checkpoint.json").read_text())
    assert facts["images"] == 0
    assert "references" not in facts
    plan, rows = drawn(tmp_path, checkpoint, real, steps=2)
    assert plan.parents == 2
    labels = dict(zip(*(Shards.open(real).table([n])[n].to_pylist() for n in ("id", "label")), strict=True))
    for row in rows:
        assert len(set(row["source_ids"])) == 2
        assert {labels[name] for name in row["source_ids"]} == {row["label"]}
        assert -1 < row["family_score"] < 0


def test_steps_are_a_knob_of_optimisation_alone(tmp_path):
    checkpoint, real = trained(tmp_path, NO_REFERENCES, width=8)
    with pytest.raises(UserError, match=r"generate\.steps: the family 'style' has no such knob"):
        planning.plan(GenerateParams(steps=5), checkpoint, real)


def test_what_the_machine_decides_is_decided_once(monkeypatch):
    monkeypatch.setattr(style.features, "here", lambda: "vgg19")
    block = training.decided("style", {"width": 8})
    assert block["features"] == "vgg19"
    monkeypatch.setattr(style.features, "here", lambda: "efficientnet_lite0")
    assert training.decided("style", block) == block
    assert training.decided("gan", {"width": 8}) == {"width": 8}
