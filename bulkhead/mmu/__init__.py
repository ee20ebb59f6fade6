"""The walks of the specification and of ``impl.fast`` beside the MMU of QEMU's processors, on the same tables."""
