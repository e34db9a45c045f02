"""Ingest: keep the source's images, byte for byte, in sealed shards."""

from pathlib import Path

from prefect import flow

from flows.footer import craft, run
from tasks import fetching
from tasks.layout import RAW
from tasks.params import IngestParams, Machine
from tasks.recipe import recipe, unfinished

# A download that broke off is worth another try; what the user must mend is not.
fetch = craft(fetching.fetch).with_options(
    retry_delay_seconds=[2, 10],
    retry_condition_fn=lambda task, run, state: fetching.broke_off(state.result(raise_on_failure=False)),
)
keep = craft(fetching.keep)


@flow(name="ingest", validate_parameters=False, persist_result=False)
def ingest(params: IngestParams, out: Path = RAW, machine: Machine = Machine()) -> Path:
    """Keep the original bytes of every usable image that `ingest.source` holds; say why of the others."""
    with unfinished(out, recipe("ingest", {"ingest": fetching.anywhere(params)})) as work:
        found = fetch.with_options(retries=machine.max_retries)(params.source, work.path)
        return work.seal(**keep(found, work.path, params, machine.workers))


if __name__ == "__main__":
    run(ingest)
