"""Automations: what the Prefect server does on its own: marks dead runs as crashed, and says how runs end."""

import argparse
import contextlib
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.settings import get_current_settings

from flows.server import answers
from flows.speaking import plainly
from tasks.errors import UserError

# Prefect's runs give a sign of life every three minutes.
SILENCE = timedelta(minutes=10)
ENDS = {"prefect.flow-run.Completed", "prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
PIPELINE = {"prefect.resource.role": "flow", "prefect.resource.name": "pipeline"}
TEXT = '{"text": "pipeline: {{ flow_run.name }} is {{ flow_run.state.name }}. {{ (flow_run|ui_url) or "" }}"}'


def crashed() -> Automation:
    """A run that is silent, as its process was killed and its worker with it, is marked as crashed."""
    return Automation(
        name="mintage: a silent run has crashed",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=PIPELINE,
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", "prefect.flow-run.Cancelled", *ENDS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life")],
    )


def ended(webhook: Webhook) -> Automation:
    """How a run ended is told to a webhook, in the form that Slack and Mattermost take."""
    assert webhook._block_document_id is not None
    return Automation(
        name="mintage: how a run ended",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=PIPELINE,
            expect=ENDS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook._block_document_id, payload=TEXT)],
    )


def write(automation: Automation) -> None:
    """Create an automation, or replace the one of its name."""
    with contextlib.suppress(ValueError):
        found: Any = Automation.read(name=automation.name)
        found.delete()
    automation.create()


def main() -> None:
    """Write the automations to the server that PREFECT_API_URL names."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=__doc__)
    parser.add_argument("--webhook", metavar="BLOCK", help="the name of a Webhook block to tell how runs end")
    name = parser.parse_args().webhook
    with plainly("automations"):
        url = get_current_settings().api.url
        if not url:
            raise UserError("PREFECT_API_URL: not set. Automations live in a server that stays: name it.")
        if not answers(url):
            raise UserError(f"PREFECT_API_URL: no server answers at {url}. Start it: prefect server start.")
        wanted = [crashed()]
        if name:
            try:
                block: Any = Webhook.load(name)
                wanted.append(ended(block))
            except ValueError:
                raise UserError(f"--webhook: no Webhook block {name!r}. Make one in Prefect's UI.") from None
        for automation in wanted:
            write(automation)
            print(automation.name)


if __name__ == "__main__":
    main()
