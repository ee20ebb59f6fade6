"""QEMU's own MMU, asked address by address: what the architecture's walk gives, in the opinion of others."""
