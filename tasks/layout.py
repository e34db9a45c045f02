"""The paths that dvc.yaml names, relative to the project's root, where DVC runs every stage."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = Path("params.yaml")
NO_REFERENCES = Path("data/sources/no-references.yaml")

UNFINISHED = Path("data/.unfinished")
RAW = Path("data/raw")
REAL = Path("data/real")
TRAIN = REAL / "train"
CALIBRATE = REAL / "calibrate"
TEST = REAL / "test"
REFERENCE = Path("data/reference")
CHECKPOINT = Path("data/checkpoint")
SYNTHETIC = Path("data/synthetic")
SCORES = Path("data/scores")
REPORT = Path("data/report")
EXPORT = Path("data/export")
