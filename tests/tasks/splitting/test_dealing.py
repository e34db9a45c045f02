"""No group straddles two splits, and each class comes as near to its shares as groups allow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.splitting.dealing import Groups, deal
from tests import pictures as p

SHARES = {"train": 0.7, "calibrate": 0.1, "test": 0.2}


def test_groups_stay_together(tmp_path):
    files = {f"{c}/video{v}_{n}.png": p.picture(100 * k + 10 * v + n)
             for k, c in enumerate(("cat", "dog")) for v in range(8) for n in range(3)}  # fmt: skip
    out = p.made(tmp_path, files, group_by=r"(\w+/video\d+)_")
    by_group = {}
    for source, split in p.splits(out).items():
        by_group.setdefault(source.split("_")[0], set()).add(split)
    assert len(by_group) == 16
    assert all(len(found) == 1 for found in by_group.values())
    # A whole match is a key as well; one patient in two classes is one group.
    out = p.made(tmp_path, files, "two", group_by=r"video\d+")
    by_group = {}
    for source, split in p.splits(out).items():
        by_group.setdefault(source.split("/")[1][:6], set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())


def test_a_train_image_of_a_test_group_is_rejected(tmp_path):
    files = {f"train/{n}": d for n, d in p.classes(9).items()} | {
        f"test/{n}": d for n, d in p.classes(2, start=50).items()
    }
    out = p.made(tmp_path, files, group_by=r"cat/000")
    assert p.rejects(out) == {"train/cat/000.png": "group_in_test"}


def test_a_group_by_that_matches_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match=r"preprocess\.group_by: 'patient' matches no image"):
        p.made(tmp_path, p.classes(5), group_by="patient")


groupings = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=60
)  # a group is its members' labels


@settings(max_examples=150, deadline=None)
@given(groupings, st.randoms(use_true_random=False))
def test_dealing_keeps_groups_whole_and_ignores_order(labelled, random):
    labels = [label for group in labelled for label in group]
    numbers = iter(range(len(labels)))
    groups = [[next(numbers) for _ in group] for group in labelled]
    order = [f"{hash((n, 7)) & 0xFFFFFF:08x}{n}" for n in range(len(labels))]
    dealt = deal(groups, labels, order, SHARES)
    where = {row: split for split, rows in dealt.items() for row in rows}
    assert sorted(where) == list(range(len(labels)))
    assert all(len({where[row] for row in group}) == 1 for group in groups)
    shuffled = [random.sample(group, len(group)) for group in random.sample(groups, len(groups))]
    again = deal(shuffled, labels, order, SHARES)
    assert {s: sorted(r) for s, r in again.items()} == {s: sorted(r) for s, r in dealt.items()}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=1, max_size=5), st.integers(0, 1000))
def test_single_images_meet_shares(sizes, salt):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order = [f"{(n * 2654435761 + salt) % 2**32:08x}" for n in range(len(labels))]
    dealt = deal([[n] for n in range(len(labels))], labels, order, SHARES)
    for label, size in enumerate(sizes):
        for split, share in SHARES.items():
            count = sum(labels[row] == label for row in dealt[split])
            assert count >= 1
            assert abs(count - share * size) <= 2 or size < 10


def test_a_large_group_goes_to_train():
    groups = [list(range(50)), *[[n] for n in range(50, 100)]]
    dealt = deal(groups, [0] * 100, [f"{n:03d}" for n in range(100)], SHARES)
    assert 0 in dealt["train"]
    assert {s: len(r) for s, r in dealt.items()} == {"train": 70, "calibrate": 10, "test": 20}


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_the_connected_parts(pairs):
    groups = Groups(20)
    for pair in pairs:
        groups.join(*pair)
    parts = [{n} for n in range(20)]
    for a, b in pairs:
        one, other = (next(part for part in parts if n in part) for n in (a, b))
        if one is not other:
            parts.remove(other)
            one |= other
    assert sorted(map(sorted, groups.members(range(20)))) == sorted(map(sorted, parts))
