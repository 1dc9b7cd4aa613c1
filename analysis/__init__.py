"""Metrics, closed forms, tables and figures; simulates nothing and imports none of the other packages."""
