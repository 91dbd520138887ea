"""Studies: the published experiments as functions over the parts of the library, one file each."""
