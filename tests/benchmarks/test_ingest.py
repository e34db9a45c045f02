import json
from pathlib import Path

from benchmarks import ingest
from tests import pictures


def test_both_ways_from_a_folder_to_parquet_are_timed_and_the_fastest_counts(tmp_path, monkeypatch):
    source = pictures.write(tmp_path / "set", pictures.classes(20))
    wall = iter([9.0, 5.0, 9.0, 4.0, 8.0, 6.0])

    def here(run, source, home, size, workers):
        if run != "datasets":
            getattr(ingest, run)(source, Path(home), size, workers)
        return next(work) if run == "datasets" else {"ingest": 1.0, "preprocess": 2.0}[run], next(wall)

    work = iter([12.0, 9.0])
    monkeypatch.setattr(ingest, "alone", here)
    found = tmp_path / "ingest.json"
    arguments = ["--source", str(source), "--sizes", "16", "--workers", "1", "--tries", "2"]
    ingest.main([*arguments, "--results", str(found)])
    (row,) = json.loads(found.read_text()).values()
    assert (row["images"], row["ratio"], row["ours"]) == (40, 3.0, 13)
    assert row["with_start_up"] == {"ingest": 4.0, "preprocess": 5.0, "datasets": 6.0}
    assert row["ratio_with_start_up"] == 0.67
    assert "| set, to 16 x 16 | 13 | 4 | 3.0 | 0.7 |" in ingest.markdown({"set, to 16 x 16": row})
