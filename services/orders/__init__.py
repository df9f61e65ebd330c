"""The orders context: what customers asked for, what it costs, and where each order stands.

It owns the orders with their history, the pricing policy, and the one table of transitions that rules the
states. The orchestrator alone changes an order's state; its customer and staff read it. Refunds that the
payment provider makes by itself are recorded from the facts of payments; what cannot be completed any more,
because its customer was deactivated or its payment let go, is cancelled by asking the orchestrator.
"""
