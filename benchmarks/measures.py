"""How fast samples are measured, beside torch-fidelity on the same network, and in how much memory.

`python -m benchmarks.measures` needs `dvc repro calibrate` first. Samples are real train images with a
little noise. torch-fidelity takes the judge's features of as many images, and its own four metrics of
them; ours are the same and more of them, whole, per class and with intervals. All of filter also decodes,
measures each sample by itself, looks for copies and repeats, and compares what is kept once more.
Memory is the peak of a process of its own, at 10,000 and at 100,000 samples.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from benchmarks import samples
from models.classifiers import Judge
from tasks import comparing, judging
from tasks.device import prepare
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.reading import read
from tasks.shards import Shards, write_text

RESULT = ROOT / "benchmarks/results/measures.json"
SHARD = 2_000
BATCH = judging.INFERENCE_BATCH  # the same for both


class JudgeExtractor(FeatureExtractorBase):
    """The judge as torch-fidelity asks a network: uint8 images (B, 3, H, W) in, features and logits out."""

    judge: Judge

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Its two layers."""
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Logits for the inception score, features for the others."""
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        """Not asked for: filter does not compile either."""
        return False

    def forward(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the judge says of grey or colour images, which come with three channels."""
        channels = self.judge.stem.in_channels
        logits_BK, features_BD = self.judge(x_BCHW[:, :channels].float() / 127.5 - 1)
        found = {"features": features_BD, "logits": logits_BK}
        return tuple(found[name] for name in self.features_list)


class Pictures(Dataset[torch.Tensor]):
    """uint8 images (N, C, H, W) as torch-fidelity wants them: with three channels, one by one."""

    def __init__(self, x_NCHW: np.ndarray) -> None:
        self.x_NCHW = torch.from_numpy(x_NCHW).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.x_NCHW)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.x_NCHW[n]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the numbers and print them."""
    found = argparse.ArgumentParser("benchmarks.measures", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--samples", type=int, default=5_000, help="for the speeds")
    found.add_argument("--memory", type=int, nargs=2, default=(10_000, 100_000), help="0 0: not measured")
    found.add_argument("--alone", type=int, help="filter so many samples, and print the peak memory")
    options = found.parse_args(arguments)
    if options.alone:
        print(alone(options.data, options.alone))
        return
    result = speeds(options.data, options.samples)
    if options.memory[1]:
        result |= memory(options.data, *options.memory)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print("\n".join(f"{name:45} {value:12,.2f}" for name, value in result.items()))


def speeds(data: Path, count: int) -> dict[str, float]:
    """Images a second of either, and the ratios."""
    params = read(PARAMS)
    device = prepare(params.machine, params.filter.precision)
    real = judging.Reference(data / "reference")
    x_NCHW, y_N = images(data, count)
    judge = real.judge(device)
    JudgeExtractor.judge = judge
    register_feature_extractor("mintage-judge", JudgeExtractor)
    network = create_feature_extractor("mintage-judge", ["features", "logits"], cuda=False)
    rates = {}
    judging.measure(judge, x_NCHW[:BATCH], device, real.facts)  # the first call of a kernel is slow
    rates["features, torch-fidelity"] = count / timed(
        lambda: get_featuresdict_from_dataset(Pictures(x_NCHW), network, BATCH, False, False, False)
    )
    rates["features, filter"] = count / timed(lambda: judging.measure(judge, x_NCHW, device, real.facts))
    held_out = Shards.open(data / "real/calibrate").pixels()
    asked = {"isc": True, "fid": True, "kid": True, "prc": True, "kid_subset_size": min(1000, len(held_out))}
    rates["features and four metrics, torch-fidelity"] = count / timed(
        lambda: calculate_metrics(
            input1=Pictures(x_NCHW), input2=Pictures(held_out), feature_extractor="mintage-judge",
            batch_size=BATCH, cuda=False, save_cpu_ram=True, verbose=False, cache=False, **asked,
        )
    )  # fmt: skip
    calibrate, classes = comparing.crowd(real, "calibrate"), real.facts["classes"]

    def measured() -> None:
        said = judging.measure(judge, x_NCHW, device, real.facts)
        known = None if said.probabilities_NK is None else torch.from_numpy(said.probabilities_NK)
        drawn = comparing.Crowd(torch.from_numpy(said.features_ND), torch.from_numpy(y_N), known)
        comparing.compare(drawn, calibrate, classes)

    rates["all set measures, filter"] = count / timed(measured)
    with tempfile.TemporaryDirectory() as work:
        parts = ((x_NCHW[n : n + SHARD], y_N[n : n + SHARD]) for n in range(0, count, SHARD))
        drawn = samples.write(Path(work) / "synthetic", parts, real.facts["classes"])
        scores = Path(work) / "scores"
        rates["all of filter, PNGs decoded"] = count / timed(
            lambda: samples.filtered(drawn, data, params.filter, device, scores)
        )
    peer = rates["features, torch-fidelity"]
    return rates | {
        "features, ratio": rates["features, filter"] / peer,
        "all set measures to its features alone, ratio": rates["all set measures, filter"] / peer,
        "all of filter to its features alone, ratio": rates["all of filter, PNGs decoded"] / peer,
    }


def memory(data: Path, few: int, many: int) -> dict[str, float]:
    """The peak memory of filtering few and many samples, and what one more costs."""
    peaks = []
    for count in (few, many):
        command = [sys.executable, "-m", "benchmarks.measures", "--data", str(data), "--alone", str(count)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    each = (peaks[1] - peaks[0]) * 2**20 / (many - few)
    return {f"MiB at {few:,}": peaks[0], f"MiB at {many:,}": peaks[1], "bytes a sample more": each}


def alone(data: Path, count: int) -> float:
    """Filter so many samples in this process; the peak in MiB."""
    params = read(PARAMS)
    device = prepare(params.machine, params.filter.precision)
    with tempfile.TemporaryDirectory() as work:
        classes = judging.Reference(data / "reference").facts["classes"]
        parts = noisy(*images(data, SHARD), count)
        drawn = samples.write(Path(work) / "synthetic", parts, classes)
        samples.filtered(drawn, data, params.filter, device, Path(work) / "scores")
    # Not getrusage: its peak goes on from the parent's, which has measured speeds.
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8") if status.exists() else "")
    if peak is None:
        raise UserError(f"{status} tells no peak of memory: that part needs Linux. Ask for --memory 0 0.")
    return int(peak[1]) / 1024


def images(data: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) uint8 and labels (N,): train images in turn, with noise, no two the same."""
    train = Shards.open(data / "real/train")
    rng = np.random.default_rng(0)
    rows = rng.integers(train.rows, size=count)
    x_NCHW = train.pixels()[rows]
    noise_NCHW = rng.integers(-30, 31, x_NCHW.shape, dtype=np.int16)
    return (x_NCHW + noise_NCHW).clip(0, 255).astype(np.uint8), train.labels()[rows]


def noisy(x_NCHW: np.ndarray, y_N: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` images in parts of at most SHARD: the same ones each time, under new noise."""
    for start in range(0, count, SHARD):
        rows = slice(0, min(SHARD, count - start))
        noise_NCHW = np.random.default_rng(start).integers(-20, 21, x_NCHW[rows].shape, dtype=np.int16)
        yield (x_NCHW[rows] + noise_NCHW).clip(0, 255).astype(np.uint8), y_N[rows]


def timed(work: Any) -> float:
    """Seconds that a call takes."""
    started = time.monotonic()
    with torch.inference_mode():
        work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
