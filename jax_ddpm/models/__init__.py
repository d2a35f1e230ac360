"""Flax networks. Nothing here knows of diffusion: an image and a number go in, an image comes out."""
