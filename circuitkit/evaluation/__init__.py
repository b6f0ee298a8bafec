"""What is measured of a circuit."""
