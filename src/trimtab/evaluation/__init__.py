"""measure(): what a vector does, to which inputs, beside what has no behavior in it, and at what cost."""
