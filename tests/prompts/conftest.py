from hypothesis import settings

# The same examples every run, and no time limit an example: the machine may be busy.
settings.register_profile("prompts", derandomize=True, deadline=None)
settings.load_profile("prompts")
