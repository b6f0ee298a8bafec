"""Circuits as text or bytes, one format family a file.

An exporter is a function ``(circuit, **style) -> str | bytes``; its name is the file suffix.
"""
