"""What the tests compare with: the equations in NumPy float64, each worked out by another route than the package takes.

Times t are integer arrays [B] in 0..T-1, data are [B, ...], and nothing here calls the package.
"""
