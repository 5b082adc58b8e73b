"""Measuring instruments of the tests."""

import torch


def allocated_peak_bytes(function):
    """Return by how much the memory that torch's allocator holds grows at most while a function runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    allocations, events = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if hasattr(event.extra_fields, "alloc_size"):
            allocations.append((event.start_time_ns, event.extra_fields.alloc_size))
    del kept
    held = peak = 0
    for _, size in sorted(allocations, key=lambda pair: pair[0]):
        held += size
        peak = max(peak, held)
    return peak
