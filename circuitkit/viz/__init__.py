"""Drawings of circuits and figures; without torch."""
