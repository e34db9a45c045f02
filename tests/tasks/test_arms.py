import pytest

from tasks.arms import KINDS, PAIRS, RATED, Arm, checked, pairs, parse


def test_names_are_kinds_with_or_without_a_ratio():
    assert [parse(kind) for kind in KINDS] == [Arm(kind) for kind in KINDS]
    assert parse("synthetic@3") == Arm("synthetic", 3.0)
    assert parse("real_synthetic@0.5") == Arm("real_synthetic", 0.5)
    assert set(RATED) <= set(KINDS)
    assert {kind for pair in PAIRS for kind in pair} == set(KINDS)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["syntetic"], "'syntetic': no such arm; try 'synthetic'"),
        (["xyz"], "there are: real, real_augmented"),
        (["real@2"], "real has no ratio; write 'real'"),
        (["synthetic@"], "number above 0, at most 1e+06; write it as in 'synthetic@3'"),
        (["synthetic@-1"], "above 0"),
        (["synthetic@0"], "above 0"),
        (["synthetic@inf"], "above 0"),
        (["synthetic@nan"], "above 0"),
        (["synthetic@2", "real", "synthetic@2.0"], "'synthetic@2' and 'synthetic@2.0' are the same arm"),
        (["real", "real"], "the same arm"),
    ],
)
def test_a_wrong_name_is_told_with_its_mend(names, said):
    with pytest.raises(ValueError, match=r".") as caught:
        checked(names)
    assert said in str(caught.value)


def test_every_mixture_is_held_against_the_real_images_and_their_augmentation():
    found = pairs(["real", "real_augmented", "real_synthetic", "real_synthetic@0.5", "synthetic@3"])
    assert found == [
        ("synthetic@3", "real"),
        ("real_synthetic", "real"),
        ("real_synthetic@0.5", "real"),
        ("real_augmented", "real"),
        ("real_synthetic", "real_augmented"),
        ("real_synthetic@0.5", "real_augmented"),
    ]


def test_synthetic_images_are_held_against_as_many_others():
    found = pairs(["synthetic", "synthetic@3", "synthetic_soft@3", "random_drop", "unfiltered"])
    assert found == [
        ("synthetic", "random_drop"),
        ("synthetic", "unfiltered"),
        ("synthetic_soft@3", "synthetic@3"),
    ]
