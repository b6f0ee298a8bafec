"""Attribution graphs as files of other programs."""

from __future__ import annotations
