"""Published circuits, with the roles of their components and their sources."""
