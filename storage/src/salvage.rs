//! Takes what verifies out of a damaged store.
