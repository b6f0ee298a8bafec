"""Models whose circuit is known: compiled programs."""
