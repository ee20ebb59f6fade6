"""Grant tables of Xen 4.17 on Arm, versions 1 and 2, on real shared frames in the board's RAM."""
