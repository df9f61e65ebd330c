"""What every program needs and no business noun: settings, errors, gRPC, PostgreSQL, barrier, outbox."""
