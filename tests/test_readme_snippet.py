"""The README's PyTorch lines run as they stand, in a project that has its data."""

import re

import torch

from tasks.exporting import Source, write_samples
from tasks.params import ExportParams
from tests import making
from tests.house import ROOT


def snippet() -> str:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    return next(block for block in blocks if "ConcatDataset" in block)


def test_snippet_trains_on_the_export_mixed_with_real_images(tmp_path, monkeypatch):
    data = making.stages(tmp_path / "data", drawn=300)
    (data / "export").mkdir()
    write_samples(Source.open(data / "synthetic", data / "scores"), ExportParams(), data / "export")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict = {}
    exec(compile(snippet(), "README.md", "exec"), found)
    assert len(found["mixed"]) == 60 + 240
    x = torch.stack([x for x, _ in found["mixed"]])
    y = torch.tensor([y for _, y in found["mixed"]])
    assert (found["model"](x).argmax(1) == y).float().mean() > 0.5  # chance is a third
