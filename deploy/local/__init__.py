"""The whole suite on one machine without Docker (`python -m deploy.local`), and parts the tests use."""
