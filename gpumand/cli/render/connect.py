"""The outcome of ``gpumanctl connect`` and ``gpumanctl disconnect`` as text."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.connect.connecting import Action, Step
from gpumand.cli.render.format import clean

_DONE = {
    Action.CONNECT: "now uses the gateway",
    Action.UNCHANGED: "nothing to change",
    Action.RESTORE: "is as it was before",
    Action.CLEAN: "was changed since: only the lines of gpumanctl were removed",
}
_PLANNED = {
    Action.CONNECT: "would use the gateway",
    Action.RESTORE: "would be as it was before",
    Action.CLEAN: "was changed since: only the lines of gpumanctl would be removed",
}


def step_lines(step: Step, *, dry_run: bool, quiet: bool) -> Iterator[str]:
    """The lines about one program.

    Args:
        step: what was done, or would be done.
        dry_run: nothing was done: with the differences.
        quiet: without notes, unless they are all that there is.
    """
    if step.action is Action.REFUSED:
        where = f"{clean(step.path)} was not changed: " if step.path else "not connected: "
        yield f"{step.program}: {where}{clean(step.reason).rstrip('.')}."
        return
    if step.action is Action.MANUAL:
        yield f"{step.program}: set it yourself."
    else:
        words = (_PLANNED if dry_run else _DONE).get(step.action, _DONE[Action.UNCHANGED])
        yield f"{step.program}: {clean(step.path)}: {words}."
    if dry_run and step.is_change:
        yield from (f"  {clean(line)}" for line in step.diff())
    if not quiet or step.action is Action.MANUAL:
        yield from (f"  {clean(note)}" for note in step.notes)
