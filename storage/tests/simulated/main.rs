//! The store on the simulated disk. One program, because each would compile the whole
//! store for it anew.

#![allow(unused_must_use)] // receipts are for replies; these tests look at the store itself

mod backup;
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod compaction;
mod crashes;
mod cut;
mod faults;
mod files;
mod golden;
mod harm;
mod history;
mod log_end;
mod operations;
mod packing;
mod put_back;
mod quarantine;
mod rebuild;
mod rest;
mod rooms;
mod salvage;
mod salvage_lost;
mod undelete;
mod unreadable;
mod verify;
