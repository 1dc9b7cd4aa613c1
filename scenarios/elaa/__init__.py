"""Near-field CSI of an extremely large array that is visible in part."""
