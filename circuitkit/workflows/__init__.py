"""The main jobs from end to end."""
