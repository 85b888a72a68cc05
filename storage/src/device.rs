//! The disk, as the store sees it.
/// CONTRACT STUB: the storage part defines this.
pub trait Device: 'static {}
