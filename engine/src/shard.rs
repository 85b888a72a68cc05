//! One core's world. CONTRACT STUB.

/// Everything that a session on this core may use.
#[derive(Debug)]
pub struct Shard {
    pub id: u16,
    // pub store: storage::Store<storage::device::Uring>,
}
