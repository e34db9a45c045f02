"""Versions as their tags tell them: listed newest first, picked by any part of their name, compared."""

import pytest

from tasks.errors import UserError
from tasks.versions import Version, aligned, chosen, comparison, listing, versions
from tests import publishing as tiny

BODY = "digits 2026-11-2{0}-{1}\n\nkept: {2}\nkept_ratio: 0.5\naccuracy.synthetic.mean: 0.9{0}\n"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    root = tmp_path_factory.mktemp("versions")
    tiny.run(root, "git", "init", "--quiet")
    tiny.run(root, "git", "commit", "--quiet", "--allow-empty", "--message", "empty")
    for day, digest, kept in ((1, "aaaa1111", 100), (2, "bbbb2222", 120), (2, "bcbc3333", 90)):
        tag, body = f"dataset/digits/2026-11-2{day}-{digest}", BODY.format(day, digest, kept)
        tiny.run(root, "git", "tag", "--annotate", "--message", body, tag)
    tiny.run(root, "git", "tag", "dataset/by-hand")
    for number, odd in enumerate(
        ("1: 2\nyes: 1\nnull: 1", f"kept: {10**400}", "day: 2026-02-30", "a: !!int x")
    ):
        tiny.run(root, "git", "tag", "--annotate", "--message", f"odd\n\n{odd}\n", f"dataset/Odd{number}")
    tiny.run(root, "git", "tag", "v1")
    return versions(root)


def test_all_are_listed_the_newest_first(known):
    assert [v.short for v in known] == [
        "digits/2026-11-22-bcbc3333", "digits/2026-11-22-bbbb2222", "digits/2026-11-21-aaaa1111", "by-hand",
        "Odd3", "Odd2", "Odd1", "Odd0",
    ]  # fmt: skip
    assert [v.metrics for v in known[3:]] == [{}] * 5
    table = listing(known)
    assert table[0][:3] == ("version", "kept", "kept_ratio")
    assert table[1][:5] == ("digits/2026-11-22-bcbc3333", "90", "0.5", "–", "0.92")
    assert table[-1][1:] == ("–",) * 5


@pytest.mark.parametrize(
    "name", ["dataset/digits/2026-11-21-aaaa1111", "digits/2026-11-21-aaaa1111", "2026-11-21", "aaaa"]
)
def test_one_is_picked_by_any_part_of_its_name(known, name):
    assert chosen(known, name).short == "digits/2026-11-21-aaaa1111"


@pytest.mark.parametrize("name", ["2026-11-22", "b", "cccc", "digits"])
def test_what_fits_none_or_many_is_told(known, name):
    with pytest.raises(UserError, match=name):
        chosen(known, name)


def test_two_are_compared_metric_by_metric():
    old = Version("dataset/a", {"kept": 100, "gone": 1.0, "after.recall": None})
    new = Version("dataset/b", {"kept": 120, "after.recall": 0.5})
    table = comparison(old, new)
    assert table == [
        ("metric", "a", "b", "change"),
        ("kept", "100", "120", "+20"),
        ("gone", "1", "–", ""),
        ("after.recall", "–", "0.5", ""),
    ]
    assert aligned(table).splitlines()[1] == "kept          100  120     +20"
