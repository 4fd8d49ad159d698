"""How good predictions and their uncertainties were, with intervals, and a report of it. Knows numpy only."""
