"""Every way that `style` and `texture` make images is timed, and told beside its floor."""

import json

from benchmarks import painting


def test_photographs_are_of_the_size_that_is_asked_for_and_differ():
    x_NCHW = painting.photographs(24, 4)
    assert x_NCHW.shape == (4, 3, 24, 24)
    assert len({tuple(x.flatten().tolist()) for x in x_NCHW}) == 4
    assert x_NCHW.float().std() > 20


def test_every_way_is_timed(tmp_path, monkeypatch, capsys):
    small = {
        name: work._replace(size=32, images=2, block={**work.block, **steps(work)})
        for name, work in painting.WORKS.items()
    }
    monkeypatch.setattr(painting, "WORKS", small)
    written = tmp_path / "rows.json"
    painting.main(["--threads", "1", "--results", str(written)])
    rows = json.loads(written.read_text())
    assert [*rows] == [*small]
    for name, row in rows.items():
        assert row["rate"] > 0
        assert row["megapixels"] == row["rate"] * 32 * 32 / 1e6
        assert row["threads"] == "1"
        scored = row["score"] is not None
        assert scored is (name != "`style`, AdaIN")
    assert painting.markdown(rows) in capsys.readouterr().out


def steps(work):
    """Few steps, where a texture is optimised: how good it becomes is not asked here."""
    return {"steps": 2} if work.family == "texture" and work.block.get("method") == "optimise" else {}
