"""The stages as Prefect flows, and the footer that they share."""

from flows.help import answer
from flows.speaking import from_the_start

answer()
from_the_start()
