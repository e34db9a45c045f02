"""Shards are whole or absent, and a folder is sealed or refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import shards
from tasks.errors import UserError
from tasks.shards import SAMPLE, Shards, sample_table, seal, shard_name, spans, write_shard


def table(rows, start=0):
    x = np.full((rows, 1, 8, 8), 7, np.uint8)
    names = [f"{n:04d}" for n in range(start, start + rows)]
    return sample_table(
        rows,
        id=names,
        image=shards.image_column(map(shards.png, x), names),
        label=[n % 2 for n in range(rows)],
    )


def sealed(folder, *sizes, **facts):
    folder.mkdir()
    for n, size in enumerate(sizes):
        write_shard(folder / shard_name(n), table(size, 100 * n))
    return seal(folder, **{"classes": ["a", "b"], "channels": 1, "size": 8, **facts})


def test_what_is_written_is_read(tmp_path):
    found = Shards.open(sealed(tmp_path / "x", 3, 2))
    assert (found.rows, found.classes, found.shape) == (5, ["a", "b"], (1, 8, 8))
    assert found.labels().tolist() == [0, 1, 0, 0, 1]
    assert found.pixels().shape == (5, 1, 8, 8)
    assert [len(t) for t in found.tables(["id"])] == [3, 2]
    assert found.table(["id"])["id"].to_pylist() == ["0000", "0001", "0002", "0100", "0101"]
    assert next(found.tables()).schema == SAMPLE


def test_no_shards_at_all(tmp_path):
    found = Shards.open(sealed(tmp_path / "x", classes=[]))
    assert found.rows == 0
    assert found.labels().shape == (0,)
    assert found.pixels().shape == (0, 1, 8, 8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 5)])
def test_png_keeps_every_pixel_and_repeats(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert shards.png(x) == shards.png(x.copy())
    column = pa.chunked_array([shards.image_column([shards.png(x)], ["x.png"])])
    assert (shards.pixels(column)[0] == x).all()


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n" + bytes(20)])
def test_a_broken_png_is_told_in_one_line_that_names_its_shard(tmp_path, broken):
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / shard_name(0)
    rows = [shards.png(np.zeros((1, 8, 8), np.uint8)), broken]
    write_shard(path, sample_table(2, image=shards.image_column(rows, ["a", "b"])))
    found = Shards.open(seal(tmp_path / "x", classes=[], channels=1, size=8))
    with pytest.raises(UserError, match=rf"{path}: an image is not a PNG that can be read"):
        found.pixels()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    one, two = (sealed(tmp_path / name, 3, 1) for name in "ab")
    assert [(f.name, f.read_bytes()) for f in sorted(one.iterdir())] == [
        (f.name, f.read_bytes()) for f in sorted(two.iterdir())]  # fmt: skip


def test_the_index_carries_each_digest(tmp_path):
    index = json.loads((sealed(tmp_path / "x", 2) / "index.json").read_text())
    assert index["files"] == {shard_name(0): shards.file_digest(tmp_path / "x" / shard_name(0))}


def test_a_failed_write_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / shard_name(0), table(1))
    assert not (tmp_path / shard_name(0)).exists()
    monkeypatch.undo()
    seal(tmp_path, classes=[])
    assert [f.name for f in tmp_path.iterdir()] == ["index.json"]


def test_missing_unsealed_and_broken_folders(tmp_path):
    with pytest.raises(UserError, match="not found"):
        Shards.open(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="not sealed"):
        Shards.open(tmp_path / "bare")
    folder = sealed(tmp_path / "x", 2)
    (folder / shard_name(0)).write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=shard_name(0)):
        Shards.open(folder).labels()
    (folder / shard_name(0)).unlink()
    with pytest.raises(UserError, match=shard_name(0)):
        Shards.open(folder).labels()
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json"):
        Shards.open(folder)
    with pytest.raises(UserError, match="holds no shards"):
        Shards.open(seal(tmp_path / "bare"))


def test_a_column_of_another_schema_is_refused():
    with pytest.raises(KeyError, match="colour"):
        sample_table(1, colour=["red"])


def test_nothing_is_null_but_what_was_not_given():
    found = sample_table(2, id=["a", "b"], image=shards.image_column([b"x", None], ["x.png", None]))
    assert found.schema == SAMPLE
    assert found["image"].null_count == 1
    assert found["seed"].null_count == 2


@given(st.integers(0, 1000), st.integers(1, 100))
def test_spans_cover_all_once(total, size):
    found = [n for start, stop in spans(total, size) for n in range(start, stop)]
    assert found == list(range(total))
    assert all(0 < stop - start <= size for start, stop in spans(total, size))


def test_a_write_that_fails_leaves_nothing_and_two_may_write_at_once(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(TypeError), shards.whole(path) as file:
        file.write("no bytes")
    assert list(tmp_path.iterdir()) == []
    with shards.whole(path) as one, shards.whole(path) as other:
        one.write(b"the same")
        other.write(b"the same")
    assert path.read_bytes() == b"the same"
    assert list(tmp_path.iterdir()) == [path]
