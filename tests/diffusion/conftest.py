"""Property tests draw the same examples every time, and take as long as the machine needs."""

import hypothesis

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("steady")
