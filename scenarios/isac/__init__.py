"""The ISAC scenario: sensing a room by cameras and radio, and seeing on with what did not arrive."""
