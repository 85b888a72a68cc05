//! Hardware profiles: what a host can do, and which knobs follow from it.
