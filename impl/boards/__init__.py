"""Emulated boards: what a device tree says of a machine, and its memory."""
