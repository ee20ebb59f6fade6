"""Random guests on real Xen, followed by the specification: what they see, and Xen's own tables, compared."""
