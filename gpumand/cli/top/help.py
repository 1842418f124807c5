"""The help page of the screen."""

from __future__ import annotations

from gpumand.cli.render.text import Text

HELP = (
    "up, down, j, k     select a row; also Page Up, Page Down, Home, End",
    "Tab, left, right   go to the next list; 0 to 5 go to one of them",
    "Enter              show everything about the selected row",
    "s, S               sort the list by the next or the previous order",
    "l                  load the consumer, evicting others if needed",
    "e                  evict it, unless it is leased or pinned",
    "E                  evict it by force: its leases are revoked",
    "p                  pin it (it is not evicted to make room), or unpin it",
    "r, n               release the lease; renew it for the time of its grant",
    "c                  cancel the waiting request",
    "t, m               next color theme; mouse on or off (off = select text)",
    "q, Escape, Ctrl-C  quit; Ctrl-Z suspends, fg resumes",
    "",
    "Click on a row to select it, again for its details, on a heading to sort.",
    "The bar of a device has a letter or color for each consumer, digits or",
    "shades for foreign processes, # for other memory of no consumer, and ? for",
    "unnamed memory, which belongs to no process that the driver names.",
    "The graphs show the last 60 readings: two minutes at the default interval.",
    "Command lines come from /proc: the kernel shows those that you may read.",
)


def help_lines() -> list[Text]:
    """The page."""
    return [Text("Keys", style="bold"), *(Text(f"  {line}") for line in HELP)]
