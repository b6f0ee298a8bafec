"""The picture formats, one family a file."""
