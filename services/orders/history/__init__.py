"""The order-history projection: orders as lists are read, apart from orders as they are changed.

Rows of `order_listing` follow the context's own events by the topic. There is one set of rows per generation;
the lists are read from the active one. A rebuild copies the orders as they stand into a new generation, lets
it follow the topic until it has caught up, and makes it the active one by the update of one row; the old one
serves until then, and is deleted afterwards.

- `search`: which orders a list has, and in which order. Pure.
- `listing`: the statements that read a page.
- `following`: events -> rows.
- `generations`: what there is of each generation: copied, switched to, deleted; each step is one transaction.
- `rebuilding`: the task of each replica that does these steps and runs the consumers.
"""
