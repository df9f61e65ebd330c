"""The routes, one module per noun. Each route declares who may call it; one that does not cannot be built."""
