"""The orders context: what customers asked for, what it costs, and where each order stands.

It owns the orders with their history, the pricing policy, and the one table of transitions that rules the
states. The orchestrator alone changes an order; its customer and staff read it.
"""
