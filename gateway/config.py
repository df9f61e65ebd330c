"""Settings of the gateway, from the environment (`SAGACITY_GATEWAY_...`)."""
