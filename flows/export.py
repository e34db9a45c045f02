"""Export: hold the metrics against the gates, then write the graded dataset."""

from pathlib import Path

from flows.footer import craft, run, show_image, show_table, stage
from tasks.gates import hold, judge, measured, table
from tasks.layout import CHECKPOINT, EXPORT, REPORT, SCORES, SYNTHETIC
from tasks.params import Bound, ExportParams
from tasks.recipe import recipe, unfinished


@stage
def export(
    params: ExportParams,
    gates: dict[str, Bound],
    synthetic: Path = SYNTHETIC,
    scores: Path = SCORES,
    report: Path = REPORT,
    checkpoint: Path = CHECKPOINT,
    out: Path = EXPORT,
) -> Path:
    """Write the kept images, the manifest of all samples and the card, if every gate holds."""
    from tasks import exporting
    from tasks.exporting import card

    verdicts = judge(gates, measured(scores, report))
    show_table("gates", table(verdicts))
    hold(verdicts)
    source = exporting.Source.open(synthetic, scores)
    bounds = {metric: bound.model_dump() for metric, bound in gates.items()}
    made_by = recipe("export", {"export": params, "gates": bounds}, [synthetic, scores, report, checkpoint])
    with unfinished(out, made_by) as work:
        counts = craft(exporting.write_samples)(source, params, work.path, exporting.recommended(report))
        preview = craft(card.write_card)(work.path, params, counts, verdicts, source, report, checkpoint)
        show_image("export-preview", preview)
        return work.seal(synthetic=True, name=params.name, **counts)


if __name__ == "__main__":
    run(export)
