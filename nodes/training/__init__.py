"""Collaborative training: many devices, one model."""
