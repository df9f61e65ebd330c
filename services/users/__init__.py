"""The users context: who our customers and staff are, how they prove it, and whether they may order.

It owns accounts with their passwords, the keys that sign access tokens, address books, and what each
customer ordered and spent. The last is a projection of the facts that the orders context publishes, and lags
behind them. An account can be closed for good, after which nothing personal is left of it.
"""
