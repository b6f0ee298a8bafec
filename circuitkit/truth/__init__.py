"""Models whose circuit is known: compiled programs, and models trained to be a causal model."""
