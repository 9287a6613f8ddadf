"""The libraries of Windows and macOS as far as relrank calls them, for machines that have others."""

import os


class Library:
    """Libraries of Windows and macOS, as far as relrank calls them."""

    def __init__(self, *_args, **_options):
        pass

    def __getattr__(self, name):
        function = getattr(type(self), f"call_{name}")

        class Call:
            def __call__(self, *args):
                return function(*(getattr(arg, "_obj", arg) for arg in args))

        return Call()

    def call_GlobalMemoryStatusEx(status):  # noqa: N802, N805
        status.total, status.available = 16 << 30, 12 << 30
        return 1

    def call_GetCurrentProcess():  # noqa: N802
        return -1

    def call_K32GetProcessMemoryInfo(process, counters, length):  # noqa: N802, N805
        counters.peak = 300 << 20
        return 1

    def call_OpenProcess(right, inherited, number):  # noqa: N802, N805
        return number if os.path.exists(f"/proc/{number}") else 0

    def call_WaitForSingleObject(process, milliseconds):  # noqa: N802, N805
        return 258

    def call_CloseHandle(process):  # noqa: N802, N805
        return 1

    def call_sysctlbyname(name, value, size, new, new_size):  # noqa: N805
        value.value = {b"hw.memsize": 16 << 30, b"kern.memorystatus_level": 75}[name]
        return 0
