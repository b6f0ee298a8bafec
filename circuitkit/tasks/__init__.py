"""Prompts of a task, one task a file.

A task is a function ``(words, n, seed, **settings) -> Task``: it asks ``words`` what the model's
tokenizer holds as single tokens, makes ``n`` different prompts, and is the same for the same seed.
"""

from circuitkit.registry import serve

__getattr__, __dir__ = serve("tasks")
