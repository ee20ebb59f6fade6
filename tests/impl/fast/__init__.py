"""Tests of the optimised hypervisor."""
