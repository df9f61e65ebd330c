"""Settings of the users process: `SAGACITY_USERS_...`."""
