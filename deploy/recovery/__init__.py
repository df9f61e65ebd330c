"""What an operator runs by hand after databases were restored; see docs/how-to/backup-and-restore.md."""
