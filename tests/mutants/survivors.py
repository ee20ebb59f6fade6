"""Systematic mutants that nothing can notice, each with the reason why it is equivalent."""

EXPLAINED: dict[str, str] = {
    "grant.map._recorded#6": "whose list a handle goes back to is noted and read by nothing: any may be next",
    "memory.frames.put_page#8": "only a page of a domain, dealt with before, or a shared frame has a reference at all",
    "memory.heap.shrink_claim#0": "a claim of just so many pages is reduced to none either way",
    "memory.heap.share_page#9": "where a frame is mapped counts only while it is on record as mapped, and it is not",
}
