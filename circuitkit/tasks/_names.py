"""First names that are often one token, by the pronoun that goes with them."""

from __future__ import annotations

from circuitkit.tasks._draw import pool

__all__ = ["MEN", "NAMES", "WOMEN"]

MEN = pool(
    """James John Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew
    Anthony Mark Donald Steven Paul Andrew Joshua Kevin Brian George Edward Ronald Timothy Jason
    Jeffrey Ryan Jacob Gary Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel
    Gregory Frank Alexander Raymond Patrick Jack Dennis Jerry Tyler Aaron Henry Adam Douglas
    Peter Nathan Walter Kyle Harold Carl Arthur Roger Simon Martin Philip Louis"""
)
WOMEN = pool(
    """Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Sandra
    Ashley Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Sharon Laura
    Cynthia Kathleen Amy Angela Anna Ruth Brenda Pamela Nicole Katherine Samantha Christine
    Catherine Virginia Rachel Janet Emma Maria Heather Diane Julie Victoria Kelly Christina Joan
    Evelyn Lauren Judith Olivia Martha Hannah Alice Helen Julia Sophie Claire Lucy Margaret
    Charlotte"""
)
NAMES = tuple(name for pair in zip(MEN, WOMEN, strict=True) for name in pair)
