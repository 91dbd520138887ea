"""What a vector can undo: audits of safeguards, adversarial suffixes, and published requests from your own disk."""
