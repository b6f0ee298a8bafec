"""Drawings of attribution graphs: the tokens of a prompt from left to right, layers upwards."""
