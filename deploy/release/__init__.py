"""What becomes a release, and what may not."""
