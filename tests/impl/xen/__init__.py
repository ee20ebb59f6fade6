"""Tests of what drives real Xen, without QEMU."""
