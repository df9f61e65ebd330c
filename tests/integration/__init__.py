"""Tests that need a server. A package, so that the folder `cli` in it is not taken for the program `cli`."""
