"""The bounded contexts: one package each, one database each, and no import between them."""
