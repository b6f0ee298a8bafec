"""Helpers that have nothing to do with circuits: files, numbers, progress, options."""
