"""Scenarios: one folder per system under study, and the command line."""
