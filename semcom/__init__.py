"""The semantic core: contracts, JEPA, codecs, packets, random streams and run folders (torch only)."""
