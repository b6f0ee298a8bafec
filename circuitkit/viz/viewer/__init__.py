"""The viewer: a circuit as one page that needs nothing beside itself."""
