"""The files of other tools, read and written: EAP-IG's graphs and MIB's submissions."""

from __future__ import annotations
