"""Named statements over orders, and what they return; the caller owns the transaction."""
