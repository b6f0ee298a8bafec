"""What nodes, windows, edges and paths do, one by one: activation and path patching."""
