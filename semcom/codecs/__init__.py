"""Codecs: each turns an embedding into real bytes and back."""
