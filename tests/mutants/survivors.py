"""Systematic mutants that nothing can notice, each with the reason why it is equivalent."""

EXPLAINED: dict[str, str] = {
    "grant.access.reduce_status#0": "where no mark is to be cleared, the words are stored as they were read",
    "grant.copy.copied_word#0": "a frame that a copy has claimed belongs to a domain, with nothing secret (INV-WORD-SECRET)",
    "grant.map._recorded#2": "no handle is ever on record as one of a device (INV-GNT-NO-DEVICE-MAPS)",
    "grant.map._recorded#6": "whose list a handle goes back to is noted and read by nothing: any may be next",
    "grant.teardown.free_last_status_frame#12": "where the two numbers are equal, both are the same",
    "grant.version.set_version#23": "a change begins where none is under way, and then nothing is withdrawn (INV-GNT-CHANGE)",
    "memory.frames.put_page#8": "only a page of a domain, dealt with before, or a shared frame has a reference at all",
    "memory.heap.share_page#9": "where a frame is mapped counts only while it is on record as mapped, and it is not",
    "memory.heap.shrink_claim#0": "a claim of just so many pages is reduced to none either way",
}
