"""The pages of the studies, one file each: from a finished folder to HTML, without a model."""
