"""Tests on real Xen under QEMU; they are skipped where it is not set up (`make conformance-setup`)."""
