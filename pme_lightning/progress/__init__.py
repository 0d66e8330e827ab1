"""How far a fit has come: a bar, lines, live figures and the curve of a training."""
