"""Devices, base stations and the cluster that they run on (Ray)."""
