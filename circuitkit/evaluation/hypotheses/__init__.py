"""Claims about a circuit as statistical hypotheses (Shi et al. 2024), one file a test."""
