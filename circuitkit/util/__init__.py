"""What has nothing to do with circuits: files, numbers, progress, options."""
