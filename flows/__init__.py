"""The stages as Prefect flows, and the footer that they share."""

from flows.help import answer

answer()
