"""A tiny project's nights, one after the other, as the pipeline flow runs them, without Prefect."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks import delivering, dvc, keeping, overriding, publishing, workspace
from tests import publishing as tiny

DUE = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


class Nights:
    def __init__(self, base: Path, url: str | None = None, settings: str = "") -> None:
        self.base, self.home = base, tiny.project(base, url, settings)
        self.origin = base / "origin.git"
        self.clone = workspace.place(self.home)

    def run(self, day, fresh=True, publish=True, keep=30, **overrides) -> list[str]:
        """Run the night of a day, and return the stages that ran."""
        due = DUE + timedelta(days=day)
        wanted = {key.replace("__", "."): value for key, value in overrides.items()}
        changes = overriding.changes(wanted, due if fresh else None)
        with workspace.clone_of(self.home) as root:
            workspace.prepare(root, self.home, "main", changes)
            publishing.ready(root)
            ran = [stage for stage in dvc.stages(root) if dvc.reproduce(stage, root, {}, sparse=True)]
            delivering.deliver(root)
            assert not publish or publishing.publish(root, "main", due)
            keeping.trim(root, self.home, keep)
        return ran

    def tags(self) -> list[str]:
        return tiny.run(self.origin, "git", "tag", "--list", "--sort=creatordate").split()

    def main(self) -> str:
        return tiny.run(self.origin, "git", "rev-parse", "main")

    def cached(self) -> int:
        return sum(p.is_file() for p in (self.home / ".dvc/cache/files").rglob("*"))
