"""Replays demand in virtual time through the domain's own rules, to see what a setting would make of it."""
