"""Collaborative training: what clients send, what a base station refuses, and what it makes of the rest."""
