"""A page of what a workdir holds, for a person to read in a browser: read, laid out in sections, drawn, written as one file."""
