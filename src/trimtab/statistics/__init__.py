"""Statistics of steering: slopes, intervals, nulls, verdicts. Numpy and scipy only."""
