"""Is it one circuit? Clusters of prompts by their own edge scores, and a circuit of each."""
