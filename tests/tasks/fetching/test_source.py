"""Paths tell the class and the split of an image."""

import pytest

from tasks.fetching.source import arrange, in_order


def test_numbers_sort_as_numbers():
    assert in_order(["10", "9", "a", "02", "-1"]) == ["-1", "02", "9", "10", "a"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/1.png", "b/1.png"], [("a", None), ("b", None)]),
        (["x/y/a/1.png", "x/y/b/1.png"], [("a", None), ("b", None)]),
        (["a/video1/1.png", "a/video2/1.png", "b/c/d/1.png"], [("a", None), ("a", None), ("b", None)]),
        (["1.png", "2.png"], [(None, None), (None, None)]),
        (["x/1.png", "x/2.png"], [("x", None), ("x", None)]),
        (["train/1.png", "test/1.png"], [(None, "train"), (None, "test")]),
        (["train/a/1.png", "valid/a/1.png"], [("a", "train"), ("a", "calibrate")]),
        (["d/Training/z/a/1.png", "d/TEST/z/b/1.png"], [("a", "train"), ("b", "test")]),
        (["train/1.png", "plane/1.png"], [("train", None), ("plane", None)]),
        (["a/1.png", "2.png"], [("a", None), (None, None)]),
    ],
)
def test_paths_tell_class_and_split(paths, expected):
    assert [(place.name, place.split) for place in arrange(paths)] == expected
