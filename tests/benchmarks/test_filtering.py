from benchmarks import filtering
from tests.house import PARAMS


def test_the_filters_worth_is_told_with_what_chance_keeps():
    span = {"mean": 0.9, "low": 0.88, "high": 0.92}
    row = {"samples": 200, "kept": 150, "accuracy": dict.fromkeys(filtering.ARMS, span)}
    row["difference"] = {filtering.PAIR: {"mean": 0.01, "low": -0.005, "high": 0.02}}
    text = filtering.markdown({"vae": row})
    assert "| `vae` | 75.0 | 90.00 [88.00, 92.00] | 90.00 [88.00, 92.00] | +1.00 [−0.50, +2.00] |" in text
    assert set(filtering.IMAGES) <= set(PARAMS["families"])
