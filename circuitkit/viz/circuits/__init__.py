"""Circuits laid out and drawn."""
