"""The proposal of ``gpumanctl init --gateway`` as text."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.gateway_setup import DROP_IN, Places, Proposal
from gpumand.cli.render.format import clean
from gpumand.discovery.port_swap import Swap

APPLY = "gpumanctl init --gateway --yes"
UNDO = "gpumanctl init --undo"


def proposal_lines(proposal: Proposal, places: Places, *, is_applied: bool) -> list[str]:
    """The lines to print.

    Args:
        proposal: the changes.
        places: where the files are.
        is_applied: the files were written.
    """
    lines = [line for one in proposal.swaps for line in _swap(one)]
    lines += [f"{clean(one.consumer)}: nothing to do, because {clean(one.why)}." for one in proposal.skipped]
    if not proposal.ready:
        return [*lines, "There is nothing to write."] if not proposal.swaps else lines
    if is_applied:
        lines += ["", "Written:", *(f"  {clean(path)}" for path in proposal.files)]
    else:
        lines += ["", *_files(proposal, places)]
    lines += [f"Edit it yourself: {clean(one)}" for one in proposal.manual_edits]
    lines += ["", *_next(proposal, is_applied), "", f"To undo: {UNDO}"]
    return lines


def _swap(swap: Swap) -> Iterator[str]:
    name = clean(swap.consumer)
    if swap.is_moved:
        yield f"{name} was moved to port {swap.new_port}; the gateway listens at 127.0.0.1:{swap.old_port}."
    elif swap.todo:
        yield f"{name}: {clean(swap.todo)}, set its url to {swap.url}, and run this command again."
    else:
        yield (
            f"{name} ({clean(swap.unit)}) moves from port {swap.old_port} to {swap.new_port}; the gateway listens at "
            f"127.0.0.1:{swap.old_port}."
        )
    if swap.is_narrowed:
        yield narrowing(swap)


def narrowing(swap: Swap) -> str:
    """What clients on other hosts lose by a swap."""
    return (
        f"{clean(swap.consumer)}: other hosts and containers reach it now; afterwards only this host does. "
        "To let them use the gateway, add an address that they reach to listen, set allow_remote, create keys, and "
        "permit their addresses: systemctl edit gpumand-gateway, with [Service] and IPAddressAllow=172.16.0.0/12. "
        'See "Other hosts" in the guide of the gateway.'
    )


def _files(proposal: Proposal, places: Places) -> Iterator[str]:
    """The new files as they are; of gpumand's configuration only the lines that change."""
    for path, text in proposal.files.items():
        if path.name == DROP_IN:
            yield from (f"# {clean(path)}", *map(clean, text.splitlines()), "")
    for swap in proposal.ready:
        if (file := proposal.url_files.get(swap.consumer)) is not None:
            yield from (f"# {clean(file)}, [consumers.{clean(swap.consumer)}]", f'url = "{swap.url}"', "")
    yield f"# {clean(places.gateway)}"
    for swap in proposal.ready:
        yield from (f"[gateway.listeners.{clean(swap.consumer)}]", f'listen = "127.0.0.1:{swap.old_port}"')
    yield ""


def _next(proposal: Proposal, is_applied: bool) -> Iterator[str]:
    units = " ".join(clean(one.unit) for one in proposal.ready if one.drop_in)
    if not is_applied:
        yield f"To write these files: {APPLY}"
        return
    yield "Nothing was restarted. A restart of a service ends its requests. Continue with:"
    if units:
        yield from ("  systemctl daemon-reload", f"  systemctl try-restart {units}", "  gpumanctl reload")
    yield "  systemctl restart gpumand-gateway"
