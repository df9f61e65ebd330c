"""A package, so that pytest ends what a fixture of its scope has started when its last test has run."""
