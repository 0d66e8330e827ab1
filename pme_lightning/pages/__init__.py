"""Self-contained HTML pages of runs, drawn from what a run folder keeps. No torch: a page is made at once."""
