"""Real Xen 4.17 on Arm under QEMU, driven from here through guests of its own."""
