"""Payments: how customers pay, what they were charged, and what went back.

This context owns payment methods (a provider's tokens, never card numbers), payments, and an append-only
ledger of every movement of money. It talks to a payment provider, whose own ledger must agree with this one,
key by key.
"""
