"""The inventory context: what we sell, how much of it there is, and for which order it is held or sold.

It owns products, stock with its movements, and reservations. A reservation holds all lines of an order or
none, until it is committed, released, or its time runs out. What was sold may come back: some units, while
the reservation stays, or all that is left of it. Stock on hand less what is held is what can be ordered, and
is never negative; where it falls below a product's threshold, or is back, that is published.
"""
