from pathlib import Path

import pytest

from benchmarks import asked, low_data
from models.families import names


@pytest.fixture
def finished(monkeypatch):
    """Rows that need no pipeline; the params of those that were made."""
    made = []

    def measured(params, made_by):
        made.append(params)
        span = {"mean": 0.4, "low": 0.38, "high": 0.42}
        less = {"mean": -0.01, "low": -0.02, "high": 0.005}
        return {
            "samples": 200,
            "kept": 150,
            "accuracy": dict.fromkeys(asked.ARMS, span),
            "difference": dict.fromkeys(asked.DIFFERENCES, less),
        }

    monkeypatch.setattr(low_data, "measured", measured)
    return made


def test_every_family_that_is_asked_with_images_has_a_row_and_its_condition(finished, tmp_path, capsys):
    assert set(asked.FAMILIES) == set(names("image"))
    results = ["--results", str(tmp_path / "asked.json")]
    asked.main([*results, "--seeds", "2"])
    found = {p["train"]["family"]: p for p in finished}
    assert set(found) == set(names("image"))
    assert found["spade"]["preprocess"]["condition"] == "colours"
    assert {p["preprocess"]["train_per_class"] for p in finished} == {50}
    assert {tuple(p["evaluate"]["arms"]) for p in finished} == {tuple(asked.ARMS)}
    assert {p["evaluate"]["seeds"] for p in finished} == {2}
    asked.main([*results, "--seeds", "2", "--families", "spade"])  # is kept
    assert len(finished) == len(found)
    cells = "75.0 " + "| 40.00 [38.00, 42.00] " * 3 + "| −1.00 [−2.00, +0.50] " * 2
    assert f"| spade | {cells}|" in capsys.readouterr().out.splitlines()


def test_style_takes_part_with_references_too(finished, tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    asked.main(
        ["--results", str(tmp_path / "asked.json"), "--families", "style", "--references", str(tmp_path)]
    )
    assert [Path(p["train"]["references"]) == tmp_path for p in finished] == [False, True]


def test_an_unknown_family_is_named_before_any_is_run(finished, tmp_path):
    with pytest.raises(SystemExit) as caught:
        asked.main(["--results", str(tmp_path / "asked.json"), "--families", "texture,spode"])
    assert "no family 'spode'" in str(caught.value)
    assert not finished
