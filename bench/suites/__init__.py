"""Series measured with pytest-benchmark, one file for each question.

    make bench                                      all of them, shortened to ten minutes
    python -m bench.suites --only journal           those of a file, likewise
    python -m pytest bench/suites -c bench/suites/pytest.ini
                                                    those that need nothing but a processor

Each test measures one series, or some that belong together. Its docstring says what is measured,
from which event to which; class of machine, state of caches, dimensions are in `extra_info`.
"""
