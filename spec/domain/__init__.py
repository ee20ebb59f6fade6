"""Domains: life cycle and privilege."""
