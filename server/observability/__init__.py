"""Names of logs and metrics in one place."""
