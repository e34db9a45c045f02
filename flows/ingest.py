"""Ingest: keep the source's images, byte for byte, in sealed shards."""

from pathlib import Path

from flows.footer import craft, run, stage
from tasks import fetching
from tasks.layout import RAW
from tasks.params import IngestParams, Machine
from tasks.recipe import recipe, unfinished


@stage
def ingest(params: IngestParams, out: Path = RAW, machine: Machine = Machine()) -> Path:
    """Keep the original bytes of every usable image that `ingest.source` holds; say why of the others."""
    with unfinished(out, recipe("ingest", {"ingest": fetching.anywhere(params)}), resume=True) as work:
        found = craft(fetching.fetch, machine.max_retries)(params, work.path)
        return work.seal(**craft(fetching.keep)(found, work.path, params, machine.workers))


if __name__ == "__main__":
    run(ingest)
