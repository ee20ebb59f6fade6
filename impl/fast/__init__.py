"""The optimised hypervisor: Xen 4.17's state for Arm guests in arrays, and real stage-2 tables in the board's RAM."""
