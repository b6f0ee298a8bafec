"""Patching by hand: what single paths carry."""
