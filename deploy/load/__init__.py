"""Customers for a running suite, by locust."""
