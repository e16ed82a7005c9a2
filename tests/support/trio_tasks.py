"""The system tasks of a run of trio."""

from __future__ import annotations

import trio


def background_tasks() -> list[str]:
    """Return the names of the tasks of the system nursery that are not trio's own."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return [
        task.name
        for nursery in root.child_nurseries
        for task in nursery.child_tasks
        if not task.name.startswith(("trio.", "<TrioToken", "_trio"))
        and "pytest_trio" not in task.name
        and "._" not in task.name
    ]
