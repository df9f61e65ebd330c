"""What the containers of deploy/compose.yaml are given: their configuration, and what makes their secrets."""
