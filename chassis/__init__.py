"""What every program needs and no business noun: settings, errors, gRPC, PostgreSQL, the barrier, outbox and inbox."""
