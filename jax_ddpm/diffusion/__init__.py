"""The equations: pure functions of arrays and of a `denoiser`, any function (x_t, t) -> output.

Nothing here knows of Flax, data or devices.
"""
