"""Circuits between places: how one is chosen, and how sure one can be of it."""
