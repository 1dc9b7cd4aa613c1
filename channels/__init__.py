"""The radio: fading and scene models, links and resources (Sionna)."""
