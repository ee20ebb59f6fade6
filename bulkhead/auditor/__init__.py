"""Who reaches what: an image of a machine's memory, its VMs and, where Xen's symbols are known, Xen's own records."""
