import os

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler that measures memory is talkative
