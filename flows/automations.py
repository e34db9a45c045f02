"""Automations: what the Prefect server does on its own: marks dead runs as crashed, and says how runs go."""

import argparse
import hashlib
import json
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.settings import get_current_settings

from flows.server import trouble
from flows.speaking import plainly
from tasks.errors import UserError

# Prefect's runs give a sign of life every three minutes.
SILENCE = timedelta(minutes=10)
LATE = timedelta(hours=1)
WAITS = {f"prefect.flow-run.{name}" for name in ("Pending", "Submitting", "InfrastructurePending")}
ENDS = {"prefect.flow-run.Completed", "prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
OVER = {*ENDS, "prefect.flow-run.Cancelled"}  # whoever cancels a run need not be told
BEGUN = "prefect.flow-run.Running"
BEAT = "prefect.flow-run.heartbeat"
PIPELINE = {"prefect.resource.role": "flow", "prefect.resource.name": "pipeline"}
TEXT = '{"text": "pipeline: {{ flow_run.name }} is {{ flow_run.state.name }}. {{ (flow_run|ui_url) or "" }}"}'


def crashed() -> list[Automation]:
    """Runs whose process was killed, and whoever started it too, are marked as crashed.

    One that is silent, and one that was about to begin and never did.
    """
    dead = [ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life")]
    return [
        Automation(
            name="mintage: a silent run has crashed",
            trigger=watched(after={BEAT}, expect={BEAT, *OVER}, within=SILENCE),
            actions=dead,
        ),
        Automation(
            name="mintage: a run that never began has crashed",
            trigger=watched(after=WAITS, expect={BEGUN, *OVER}, within=SILENCE),
            actions=dead,
        ),
    ]


def told(webhook: Webhook) -> list[Automation]:
    """A webhook is told how runs end, and that one is late, in the form that Slack and Mattermost take."""
    assert webhook._block_document_id is not None
    tell = [CallWebhook(block_document_id=webhook._block_document_id, payload=TEXT)]
    return [
        Automation(name="mintage: how a run ended", trigger=watched(expect=ENDS), actions=tell),
        Automation(
            name="mintage: a run is late",
            trigger=watched(after={"prefect.flow-run.Late"}, expect={BEGUN, *OVER}, within=LATE),
            actions=tell,
        ),
    ]


def watched(within: timedelta = timedelta(0), **events: set[str]) -> EventTrigger:
    """A trigger for each run of the pipeline: when something happens, or, `within` a time, does not."""
    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=PIPELINE,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive if within else Posture.Reactive,
        threshold=1,
        within=within,
        **events,
    )


def write(automation: Automation) -> None:
    """Create an automation, or replace the one of its name if that was written otherwise.

    One that is written anew forgets what it waits for, and is switched on again.
    """
    automation.description = f"Written by flows.automations: {digest(automation)}"
    try:
        found: Any = Automation.read(name=automation.name)
    except ValueError:
        automation.create()
        return
    if found.description != automation.description:
        automation.id = found.id
        automation.update()


def digest(automation: Automation) -> str:
    """Stands for what an automation does, in whichever process."""
    told = automation.model_dump(include={"trigger", "actions"}, exclude={"trigger": {"id"}})
    words = json.dumps(told, sort_keys=True, default=_plain)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    # A set has another order in each process.
    return sorted(value) if isinstance(value, set) else str(value)


def main() -> None:
    """Write the automations to the server that PREFECT_API_URL names."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=__doc__)
    parser.add_argument("--webhook", metavar="BLOCK", help="the name of a Webhook block to tell how runs end")
    name = parser.parse_args().webhook
    with plainly("automations"):
        url = get_current_settings().api.url
        if not url:
            raise UserError("PREFECT_API_URL: not set. Automations live in a server that stays: name it.")
        if wrong := trouble(url):
            raise UserError(f"PREFECT_API_URL: {wrong} Start it: prefect server start.")
        wanted = crashed()
        if name:
            try:
                block: Any = Webhook.load(name)
            except ValueError:
                raise UserError(f"--webhook: no Webhook block {name!r}. Make one in Prefect's UI.") from None
            wanted += told(block)
        for automation in wanted:
            write(automation)
            print(automation.name)


if __name__ == "__main__":
    main()
