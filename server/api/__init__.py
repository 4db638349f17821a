"""Transports and the table that maps errors to their statuses."""
