"""Versions: list the published datasets with their metrics, or compare two of them."""

import argparse

from flows.speaking import plainly
from tasks import versions
from tasks.errors import UserError
from tasks.layout import ROOT


def main() -> None:
    """Print a table of all versions, or of the two that are named."""
    parser = argparse.ArgumentParser(prog="python -m flows.versions", description=__doc__)
    parser.add_argument("version", nargs="*", help="two, each by its tag or the start of its date or digest")
    names = parser.parse_args().version
    with plainly("versions"):
        known = versions.versions(ROOT)
        if not known:
            raise UserError("none is published yet, or not fetched: git fetch --tags.")
        if len(names) not in (0, 2):
            raise UserError(f"give no version, to list them, or two to compare; found {len(names)}.")
        picked = [versions.chosen(known, name) for name in names]
        table = versions.comparison(*picked) if picked else versions.listing(known)
        print(versions.aligned(table))


if __name__ == "__main__":
    main()
