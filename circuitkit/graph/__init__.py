"""What a circuit is: nodes, wiring, circuits, scores and their comparison; without torch."""
