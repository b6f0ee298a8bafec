"""Prompts, tokens, batches and the spans of words in them."""
