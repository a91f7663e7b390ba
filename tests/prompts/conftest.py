from hypothesis import settings

# The same examples in every run, and no time limit per example, because the machine may be busy.
settings.register_profile("prompts", derandomize=True, deadline=None)
settings.load_profile("prompts")
