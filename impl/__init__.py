"""A second, independent implementation of Xen 4.17 on Arm, written for speed; it never imports the specification."""
