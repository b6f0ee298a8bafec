"""A circuit followed over several models of one wiring: checkpoints, fine-tunes, revisions."""
