"""Collaborative training: what clients send to the base station, and what it makes of that."""
