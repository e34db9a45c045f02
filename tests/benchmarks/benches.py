"""A bench that is small: tiny budgets, few images."""

from pathlib import Path

from benchmarks import contest
from tasks.params import Params
from tests.house import PARAMS


def bench(data: Path, **changes) -> contest.Bench:
    sections = {
        "train": {"batch": 16},
        "generate": {"batch": 20},
        "evaluate": {"arms": ["real"], "images": 400, "batch": 20},
        "machine": {"device": "cpu", "threads": 1},
    }
    params = Params(**{**PARAMS, **sections})
    return contest.Bench(params, data, **{"minutes": 0.005, "seeds": 1, "trials": 3, **changes})
