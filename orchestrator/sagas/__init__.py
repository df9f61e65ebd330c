"""One file a saga: parameters, step functions, answer, definition."""
